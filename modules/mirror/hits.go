package mirror

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/store"
)

// What steps ask for again and again is a file that is in the content store and
// cannot be another: routing it, finding out its digest, its lock and its headers
// gives the same each time. A gateway remembers that of its last answers for a
// short while, and then a request costs a look into a table, the file and one
// write. Nothing else is left out: the step is held to its lock, the file is
// looked at anew and must be the very one that was hashed, and what was given is
// a material of the step.

// hit is how a request was answered, and is to be answered again.
type hit struct {
	head     []byte // of the answer, but for its date
	file     string // in the content store
	id       store.FileID
	material artifact.Material
	key      string // of the material among a step's
	until    time.Time
}

// hitsFor is how long an answer is remembered: as long as what may change is
// served without asking, so that nothing is forgotten later than elsewhere.
const hitsFor = mutableFor

// hitsKept bounds how many answers are remembered; one takes about 1 kB.
const hitsKept = 4096

// hitBook is the answers remembered. They differ by lock.
type hitBook struct {
	mu    sync.RWMutex
	n     int
	known map[*lockSet]map[string]*hit // by hitKey
	bufs  sync.Pool                    // *[]byte, of answers being written

	served atomic.Int64 // answers given from it
}

// hitKey appends what an answer may depend on besides the lock: the address and
// the forms a client reads. What else may matter makes a request no plainGet.
func hitKey(key []byte, host, target, accept string) []byte {
	key = append(append(key, host...), 0)
	key = append(append(key, target...), 0)
	return append(key, accept...)
}

func (b *hitBook) find(lock *lockSet, key []byte, now time.Time) *hit {
	b.mu.RLock()
	h := b.known[lock][string(key)]
	b.mu.RUnlock()
	if h == nil || now.After(h.until) {
		return nil
	}
	return h
}

func (b *hitBook) put(lock *lockSet, key string, h *hit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n >= hitsKept || b.known == nil {
		b.known, b.n = map[*lockSet]map[string]*hit{}, 0
	}
	if b.known[lock] == nil {
		b.known[lock] = map[string]*hit{}
	}
	if b.known[lock][key] == nil {
		b.n++
	}
	b.known[lock][key] = h
}

type underKey struct{}

// under says that a request is answered under a lock; nil: under none.
func under(ctx context.Context, lock *lockSet) context.Context {
	return context.WithValue(ctx, underKey{}, lock)
}

// remember keeps how a request is about to be answered with a file, if the same
// request would be answered the same: header is of the answer.
func (g *Gateway) remember(r *http.Request, wanted want, e store.Entry, m artifact.Material, f *os.File, header http.Header) {
	lock, ok := r.Context().Value(underKey{}).(*lockSet)
	fixed := wanted.sha256 != "" || wanted.fresh >= immutableFor
	if !ok || lock != nil && lock.grows || !fixed || wanted.derive != nil || wanted.rewrite != nil || r.Method != http.MethodGet || !strings.HasPrefix(r.RequestURI, "/") {
		return
	}
	now := time.Now()
	until := now.Add(hitsFor)
	if ends := e.Fetched.Add(wanted.fresh); wanted.sha256 == "" && ends.Before(until) {
		until = ends
	}
	st, err := f.Stat()
	if err != nil || !g.set.store.IsVerified(m.Digest, st) {
		return
	}
	h := header.Clone()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	if at, err := http.ParseTime(e.LastModified); err == nil {
		h.Set("Last-Modified", at.UTC().Format(http.TimeFormat))
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = h.Write(&head) // a buffer takes all
	head.WriteString("Date: ")
	g.hits.put(lock, string(hitKey(nil, r.Host, r.RequestURI, r.Header.Get("Accept"))), &hit{
		head: head.Bytes(), file: f.Name(), id: store.IDOf(st), material: m, key: materialKey(m), until: until,
	})
}

// again answers a step's request as one like it was answered before; false
// leaves it to the HTTP server. head is the request's.
func (g *Gateway) again(c *stepConn, head []byte) (bool, error) {
	var q plainGet
	if !q.read(head) {
		return false, nil
	}
	lock, ok := g.locks.held(g.steps, c.step)
	if !ok {
		return false, nil
	}
	now := time.Now()
	var space [256]byte
	h := g.hits.find(lock, hitKey(space[:0], q.host, q.target, q.accept), now)
	if h == nil {
		return false, nil
	}
	return g.hits.send(c.Conn, h, now, func() {
		c.asked.Store(true)
		g.steps.fetchedAs(c.step, h.key, h.material)
	})
}
