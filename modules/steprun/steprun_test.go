package steprun

import (
	"context"
	"errors"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	if err := Explain(t.Context(), "op", "place", nil); err != nil {
		t.Error(err)
	}
	said := errors.New("process failed: " + wire.FormatError(&artifact.Error{Kind: artifact.KindUsage, Message: "bad", Remedy: "mend"}))
	err := Explain(t.Context(), "op", "place", said)
	if artifact.ExitCode(err) != artifact.ExitUsage || err.Error() != "place: bad" || len(artifact.Remedies(err)) != 1 {
		t.Errorf("%v", err)
	}
	if err := Explain(t.Context(), "op", "place", errors.New("engine gone")); artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "engine gone") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(artifact.ErrInterrupted)
	if err := Explain(ctx, "op", "place", said); !errors.Is(err, artifact.ErrInterrupted) {
		t.Errorf("%v", err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	if got := tail("one\ntwo\nthree\n", 8); got != "three" {
		t.Errorf("%q", got)
	}
}
