package wire

import (
	"errors"
	"fmt"
	"testing"

	"drydock/modules/artifact"
)

func TestErrorsCross(t *testing.T) {
	t.Parallel()
	sent := fmt.Errorf("wrapped: %w", &artifact.Error{Kind: artifact.KindUsage, Op: "op", Place: "f:1", Message: "wrong", Remedy: "mend", Err: errors.New("cause\nof two lines")})
	got, ok := ParseError("noise\n" + FormatError(errors.New("an earlier one")) + "\nmore\n" + FormatError(sent) + "\ntail")
	if !ok || got.Kind != artifact.KindUsage || got.Error() != "op f:1: wrong: cause\nof two lines" || got.Remedy != "mend" {
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := ParseError(FormatError(errors.New("plain"))); !ok || got.Kind != artifact.KindInternal || got.Error() != "plain" {
		t.Errorf("%+v, %v", got, ok)
	}
}

func TestParseErrorDistrusts(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "no line", ErrorPrefix + "{", ErrorPrefix} {
		if e, ok := ParseError(s); ok {
			t.Errorf("%q is %+v", s, e)
		}
	}
	e, ok := ParseError(ErrorPrefix + `{"kind":77,"message":"x"}`)
	if !ok || artifact.ExitCode(e) != artifact.ExitInternal {
		t.Errorf("an unknown kind: %+v", e)
	}
}
