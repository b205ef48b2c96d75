package dockerfile

import (
	"strings"
	"testing"
)

func TestRunPlatforms(t *testing.T) {
	args := map[string]string{"TARGETPLATFORM": "linux/arm64", "BUILDPLATFORM": "linux/amd64", "ON": "linux/s390x"}
	for _, c := range []struct{ name, text, target, want string }{
		{"none", "FROM a\nCOPY x /\n", "", ""},
		{"target", "FROM a\nRUN x\n", "", "linux/arm64"},
		{"cross", "FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM c\nCOPY --from=b / /\n", "", "linux/amd64"},
		{"both", "FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM c\nCOPY --from=0 / /\nRUN y\n", "", "linux/amd64 linux/arm64"},
		{"stage on stage", "FROM --platform=$BUILDPLATFORM a AS b\nFROM b\nRUN x\n", "", "linux/amd64"},
		{"not reached", "FROM a AS b\nRUN x\nFROM c\nCOPY x /\n", "", ""},
		{"by a mount", "FROM a AS b\nRUN x\nFROM --platform=linux/amd64 c\nRUN --mount=from=b,target=/b y\n", "", "linux/amd64 linux/arm64"},
		{"target stage", "FROM a AS b\nRUN x\nFROM --platform=$BUILDPLATFORM c AS d\nRUN y\n", "B", "linux/arm64"},
		{"argument", "ARG ON\nFROM --platform=$ON a\nRUN x\n", "", "linux/s390x"},
		{"scratch", "FROM scratch\nCOPY sh /sh\nRUN [\"/sh\"]\n", "", "linux/arm64"},
		{"a heredoc", "FROM a\nRUN <<X\ny\nX\n", "", "linux/arm64"},
	} {
		f, err := Parse("Dockerfile", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.RunPlatforms(c.target, args)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	f, err := Parse("Dockerfile", []byte("ARG X=${Y:?none}\nFROM a\n"))
	if err == nil {
		_, err = f.RunPlatforms("", nil)
	}
	if err == nil {
		t.Error("an argument that cannot be expanded was")
	}
}
