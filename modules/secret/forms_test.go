package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"testing"
)

func TestForms(t *testing.T) {
	t.Parallel()
	const value = "p4ss/w\"rd +and&more"
	quoted, err := json.Marshal("x" + value + "y")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plain": value, "hex": hex.EncodeToString([]byte(value)), "query": url.QueryEscape(value), "path": url.PathEscape(value), "JSON": string(quoted),
		"base64": base64.StdEncoding.EncodeToString([]byte(value)), "as basic credentials": base64.StdEncoding.EncodeToString([]byte("me:" + value)),
		"in the middle": base64.URLEncoding.EncodeToString([]byte("user" + value + "\n")),
	} {
		if !found(text, value) {
			t.Errorf("%s: not seen in %s", name, text)
		}
	}
	if !found("a second line", "the first line\na second line\n") {
		t.Error("a line of several is not seen")
	}
	key := "-----BEGIN KEY-----\nc2VjcmV0c2VjcmV0\n-----END KEY-----\n"
	if found("-----BEGIN KEY-----", key) || !found("c2VjcmV0c2VjcmV0", key) {
		t.Error("of a PEM block the frame counts, or its content does not")
	}
	if f := Forms([]byte("abc"), []byte("  x \n")); len(f) > 0 {
		t.Errorf("short ones count: %q", f)
	}
	if found("an ordinary text", value) {
		t.Error("seen where it is not")
	}
}

func found(text, value string) bool {
	for _, f := range Forms([]byte(value)) {
		if bytes.Contains([]byte(text), f) {
			return true
		}
	}
	return false
}
