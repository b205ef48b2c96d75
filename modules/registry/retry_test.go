package registry

import (
	"fmt"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// TestWorthRetry: an upload that was forgotten is begun anew, what was refused
// is not asked for again.
func TestWorthRetry(t *testing.T) {
	for code, want := range map[transport.ErrorCode]bool{
		transport.BlobUploadUnknownErrorCode: true, transport.BlobUploadInvalidErrorCode: false, transport.UnauthorizedErrorCode: false,
	} {
		err := fmt.Errorf("pushing: %w", &transport.Error{Errors: []transport.Diagnostic{{Code: code}}, StatusCode: 400})
		if worthRetry(err) != want {
			t.Errorf("%s: %t", code, !want)
		}
	}
}
