package engine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/core"
)

// TestKillAnywhere kills a program, or its engine, at random points of builds:
// while it starts, builds and ends. Whatever was finished stays finished, no
// process is left, and nothing half-written is taken for whole.
func TestKillAnywhere(t *testing.T) {
	points := 100
	if testing.Short() {
		points = 8
	}
	cache := engineCache(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	done := map[string]bool{} // commands whose result was told
	began := time.Now()
	for n := range points {
		if time.Since(began) > 3*time.Minute {
			t.Logf("stopped after %d points: this machine is busy", n)
			points = n
			break
		}
		killOnce(t, cache, random, n, done)
	}
	after := startHelper(t, cache)
	after.expect("up")
	for command := range done {
		after.do(command, told(command))
	}
	if again := after.gate.steps("step"); len(again) > 0 {
		t.Errorf("%d of %d finished steps ran again", len(again), len(done))
	}
	if len(done) < points/5 {
		t.Errorf("only %d steps were finished before a kill: the test kills too early to show anything", len(done))
	}
	after.close()
	wantWholeFiles(t, StateDir(cache))
}

// killOnce runs steps until the moment comes.
func killOnce(t *testing.T, cache string, random *rand.Rand, n int, done map[string]bool) {
	t.Helper()
	h := startHelper(t, cache)
	engine := 0
	// every third while it starts, the others while it builds or ends
	moment := time.After(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
	if n%3 > 0 {
		if line := h.expect(""); line != "up" {
			t.Fatalf("point %d: %q", n, line)
		}
		if r := core.FindRunning(StateDir(cache)); r != nil {
			engine = r.PID
		}
		moment = time.After(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
	}
	sent := []string{}
	for i := range 3 {
		sent = append(sent, fmt.Sprintf("echo %d-%d; /bin/busybox dd if=/dev/zero of=/f bs=64k count=8 2>/dev/null", n, i))
		h.send(sent[i])
	}
	_ = h.in.Close()
	for killed := false; !killed; {
		select {
		case line := <-h.lines:
			switch {
			case line == "up", line == "closed", line == "":
			case len(sent) > 0 && line == "out "+told(sent[0]):
				done[sent[0]] = true
				sent = sent[1:]
			default:
				t.Fatalf("point %d: %q", n, line)
			}
		case <-moment:
			killed = true
		}
	}
	if engine != 0 && n%2 == 0 { // the engine first; the program says so and ends
		_ = unix.Kill(engine, unix.SIGKILL)
	}
	h.kill()
	if engine != 0 {
		wantGone(t, engine)
	}
	noneLeft(t, cache)
}

// told is what a command prints.
func told(command string) string {
	return strings.TrimPrefix(command[:strings.Index(command, ";")], "echo ")
}

// noneLeft waits until no engine and no step of this state is there: an engine
// holds the lock as long as it lives, and steps end before it.
func noneLeft(t *testing.T, cache string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		f, err := os.OpenFile(filepath.Join(StateDir(cache), "lock"), os.O_RDWR, 0)
		if os.IsNotExist(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		f.Close()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("an engine is left")
		}
	}
}

// wantWholeFiles looks at what a reader would take for whole: JSON files parse,
// and every blob is what its name says.
func wantWholeFiles(t *testing.T, dir string) {
	t.Helper()
	blobs := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			if os.IsPermission(err) {
				return fs.SkipDir // files of subordinate ids
			}
			return err
		}
		switch {
		case filepath.Base(filepath.Dir(path)) == "sha256":
			blobs++
			if sum := sumFile(t, path); sum != filepath.Base(path) {
				t.Errorf("blob %s holds %s", path, sum)
			}
		case strings.HasSuffix(path, ".json") && !strings.Contains(path, "/snapshots/"):
			b, err := os.ReadFile(path)
			if err != nil || !json.Valid(b) {
				t.Errorf("%s: %v, %q", path, err, b)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d blobs", blobs)
}

func sumFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
