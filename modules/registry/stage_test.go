package registry

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

// ask sends a request and gives status, headers and body.
func ask(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func digestOfText(text string) artifact.Digest {
	return artifact.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))))
}

// Clients that read strictly want a list also where there is nothing to list
// (distribution-spec 1.1, "Listing Referrers").
func TestReferrersOfNothing(t *testing.T) {
	srv, _ := serveStage(t, nil)
	blob := "some blob"
	d := digestOfText(blob)
	if resp, b := ask(t, http.MethodPost, srv.URL+"/v2/team/app/blobs/uploads/?digest="+string(d), blob); resp.StatusCode != http.StatusCreated {
		t.Fatalf("a blob in one request: %s %s", resp.Status, b)
	}
	for _, repo := range []string{"team/app", "nobody/there"} {
		resp, b := ask(t, http.MethodGet, srv.URL+"/v2/"+repo+"/referrers/"+string(d), "")
		var v map[string]json.RawMessage
		if err := json.Unmarshal([]byte(b), &v); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %q: %v", repo, resp.Status, b, err)
		}
		if got := string(v["manifests"]); got != "[]" {
			t.Errorf("%s: manifests are %s, not an empty list", repo, got)
		}
	}
}

func TestBlobInOneRequest(t *testing.T) {
	srv, _ := serveStage(t, nil)
	blob := "a blob that comes with the request for an upload"
	d := digestOfText(blob)
	resp, b := ask(t, http.MethodPost, srv.URL+"/v2/team/app/blobs/uploads/?digest="+string(d), blob)
	if want := "/v2/team/app/blobs/" + string(d); resp.StatusCode != http.StatusCreated || resp.Header.Get("Location") != want {
		t.Fatalf("%s, location %q, want %q: %s", resp.Status, resp.Header.Get("Location"), want, b)
	}
	if _, b := ask(t, http.MethodGet, srv.URL+"/v2/team/app/blobs/"+string(d), ""); b != blob {
		t.Errorf("it reads %q", b)
	}
	wrong := digestOfText("another")
	if resp, _ := ask(t, http.MethodPost, srv.URL+"/v2/team/app/blobs/uploads/?digest="+string(wrong), blob); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("of another digest: %s", resp.Status)
	}
}

func TestNamesThatLeaveTheFolder(t *testing.T) {
	srv, _ := serveStage(t, nil)
	for _, repo := range []string{"..", "../other", "a/../../b", ".", "%2e%2e/other"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "/v2/" + repo + "/blobs/uploads/" // as it is, not cleaned
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 300 {
			t.Errorf("%s: %s", repo, resp.Status)
		}
	}
}
