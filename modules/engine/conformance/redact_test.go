package conformance

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"dagger.io/dagger"
)

// A secret a step has is in none of its outputs, however it is printed.
func TestRedaction(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		const plain = "correct horse battery"
		box := fresh(busybox(t, c)).WithSecretVariable("TOKEN", c.SetSecret("redact-env", plain)).
			WithMountedSecret("/run/key", c.SetSecret("redact-file", "-----BEGIN-----\nfirst line of it\nsecond line of it\n-----END-----\n"))
		tests := map[string]string{
			"at once":         `echo "<$TOKEN>"`,
			"split":           `printf "<corr"; sleep 0.2; printf "ect horse"; sleep 0.2; echo " battery>"`,
			"to stderr":       `echo "<$TOKEN>" >&2`,
			"a file, at once": `cat /run/key`,
		}
		if isEmbedded(t) { // what is promised beyond
			tests["base64"] = `printf %s "$TOKEN" | base64`
			tests["base64 of more"] = `printf "user:%s" "$TOKEN" | base64`
			tests["a line of a file"] = `grep first /run/key`
		}
		for name, script := range tests {
			t.Run(name, func(t *testing.T) {
				ctr := box.WithExec(sh(script+"; exit 3"), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
				out, err := ctr.CombinedOutput(ctx)
				if err != nil || !strings.Contains(out, "***") {
					t.Errorf("got %q, %v", out, err)
				}
				_, err = box.WithExec(sh(script + "; exit 4")).Sync(ctx)
				var failed *dagger.ExecError
				if !errors.As(err, &failed) {
					t.Fatalf("got %v", err)
				}
				all := out + failed.Stdout + failed.Stderr + err.Error()
				encoded := base64.StdEncoding.EncodeToString([]byte(plain))
				for _, no := range []string{plain, "first line", encoded[:12]} {
					if strings.Contains(all, no) {
						t.Errorf("%q is in %q", no, all)
					}
				}
			})
		}
	})
}

// What is no secret is left as it is.
func TestNoRedaction(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := fresh(busybox(t, c)).WithSecretVariable("TOKEN", c.SetSecret("redact-other", "horse"))
		got, err := box.WithExec(sh("printf 'hors'; sleep 0.1; echo eradish; printf hor")).Stdout(within(t))
		if err != nil || got != "***radish\nhor" {
			t.Errorf("got %q, %v", got, err)
		}
		other, err := fresh(busybox(t, c)).WithExec([]string{"echo", "horse"}).Stdout(within(t))
		if err != nil || other != "horse\n" {
			t.Errorf("a step without the secret: %q, %v", other, err)
		}
	})
}
