package line

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/engine/embedded/history"
	"drydock/modules/image"
	"drydock/modules/steprun/wire"
)

// withFiles fetches what ADD names by an address, through the gateway as steps
// of the embedded engine do, and has it copied from an image: an engine of others
// reaches no gateway, and a Dagger Engine checks no checksum.
func (l *Line) withFiles(ctx context.Context, o *order) error {
	f, err := dockerfile.Parse(o.img.DockerfilePath, o.text)
	if err != nil {
		return err
	}
	o.text, err = f.CopyFetched(o.img.FromArgs(*o.variant, *o.node.Platform), func(add dockerfile.Added) (string, error) {
		return l.fetchedImage(ctx, o, add)
	})
	return err
}

// history is what the image is made by, where the engine does not tell it.
func (o *order) history(ctx context.Context, epoch int64) ([]wire.History, error) {
	if o.plain == nil || o.reader.spelling != "" {
		return nil, nil
	}
	entries, err := history.Read(ctx, history.Source{
		Dockerfile: o.plain, Target: o.img.Target, Args: o.variant.Args, Platform: *o.node.Platform, Epoch: epoch,
	})
	out := make([]wire.History, len(entries))
	for i, e := range entries {
		out[i] = wire.History(e)
	}
	return out, err
}

// fetchedImage is the reference of an image that holds one file.
func (l *Line) fetchedImage(ctx context.Context, o *order, add dockerfile.Added) (string, error) {
	if err := l.enforceLock(o.img); err != nil {
		return "", err
	}
	return l.filesImage(ctx, o, "fetched", func(folder string) error {
		return l.throughGateway(ctx, o, add, filepath.Join(folder, add.Name))
	})
}

// filesImage is the reference of an image, among the bases, that holds what fill
// writes to a folder for the order's image.
func (l *Line) filesImage(ctx context.Context, o *order, kind string, fill func(folder string) error) (string, error) {
	bases, err := l.basesReg.get()
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(l.cfg.Cache, ".fetched-")
	if err != nil {
		return "", fmt.Errorf("making room for what image %s fetches: %w", o.img.Name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	folder := filepath.Join(tmp, "files")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", fmt.Errorf("making room for what image %s fetches: %w", o.img.Name, err)
	}
	if err := fill(folder); err != nil {
		return "", err
	}
	d, err := image.Folder(tmp, folder, *o.node.Platform, func(string, fs.DirEntry) bool { return true })
	if err != nil {
		return "", err
	}
	name := kind + "/" + o.img.Name
	repo, err := bases.client.Repo(bases.where, name)
	if err == nil {
		_, err = repo.PushLayout(ctx, tmp, d)
	}
	return o.engine.ImageRef(name, d), err
}

// enforceLock lets the gateway know the image's lock, which what ADD fetches is
// held to on every engine.
func (l *Line) enforceLock(img *catalog.Image) error {
	u, err := l.lockOfImage(img)
	if u == nil || err != nil || u.soft || u.observed {
		return err
	}
	box, err := l.gatewayBox.get()
	if err == nil {
		box.gateway.Enforce(u.key, u.lock, u.file, u.remedy)
	}
	return err
}

// throughGateway writes what an address answers to a file, as a step that is an
// ADD of the order's image, and notes the material.
func (l *Line) throughGateway(ctx context.Context, o *order, add dockerfile.Added, to string) (err error) {
	box, err := l.gatewayBox.get()
	if err != nil {
		return err
	}
	step := hashed(o.node.ID + "\n" + add.URL)
	name := "ADD " + add.URL
	control, err := greet(ctx, box, map[string]any{"kind": "step", "step": step, "name": name, "fetch": true})
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	if err := download(ctx, box, string(step), add, to); err != nil {
		return err
	}
	if err := ended(control); err != nil {
		return fmt.Errorf("asking the mirror gateway: %w", err)
	}
	told, err := greet(ctx, box, map[string]any{"kind": "build", "build": string(step), "steps": []any{map[string]any{"step": step, "name": name}}})
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, told)
	_ = told.Close()
	o.fetched = append(o.fetched, box.gateway.Fetched(string(step)).Materials...)
	return nil
}

// ended tells the gateway that a step went well, and waits until that is noted.
func ended(control net.Conn) error {
	if _, err := control.Write([]byte("{\"ok\":true}\n")); err != nil {
		return err
	}
	if c, ok := control.(*net.UnixConn); ok {
		if err := c.CloseWrite(); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, control)
	return err
}

func hashed(text string) artifact.Digest {
	sum := sha256.Sum256([]byte(text))
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// download asks the gateway for an address and checks what comes.
func download(ctx context.Context, box *gatewayBox, step string, add dockerfile.Added, to string) error {
	fault := func(kind artifact.Kind, message, remedy string, err error) error {
		return &artifact.Error{Kind: kind, Op: "fetching " + add.URL, Place: add.Place, Message: message, Remedy: remedy, Err: err}
	}
	u, err := url.Parse(add.URL)
	if err != nil {
		return fault(artifact.KindUsage, "not an address", "write one", err)
	}
	u.Scheme = "http" // to the gateway; it asks the mirror by its own
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return greet(ctx, box, map[string]any{"kind": "conn", "proto": "http", "step": step})
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fault(artifact.KindUsage, "not an address", "write one", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fault(artifact.KindFault, "", "run again", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		kind := artifact.KindFault
		if resp.StatusCode == http.StatusForbidden { // it is none of the mirrors, or not in the lock
			kind = artifact.KindUsage
		}
		return fault(kind, fmt.Sprintf("the mirror answered %d: %s", resp.StatusCode, strings.TrimSpace(string(said))), "mend the address, or list it in mirrors.yaml", nil)
	}
	out, err := os.Create(to)
	if err != nil {
		return fault(artifact.KindFault, "", "", err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), resp.Body)
	if err = errors.Join(err, out.Close()); err != nil {
		return fault(artifact.KindFault, "", "run again", err)
	}
	got := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if add.Checksum != "" && add.Checksum != got {
		return fault(artifact.KindUsage, fmt.Sprintf("digest mismatch: it is %s, not %s", got, add.Checksum), "check what the address serves, then mend --checksum", nil)
	}
	return nil
}

// greet opens a connection to the gateway.
func greet(ctx context.Context, box *gatewayBox, hello map[string]any) (net.Conn, error) {
	line, err := json.Marshal(hello)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", box.socket)
	if err != nil {
		return nil, fmt.Errorf("asking the mirror gateway: %w", err)
	}
	w := bufio.NewWriter(c)
	_, _ = w.Write(append(line, '\n'))
	if err := w.Flush(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("asking the mirror gateway: %w", err)
	}
	return c, nil
}
