//go:build linux

package front

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Event is one line of GET /events. It has the form of engine.Event.
type Event struct {
	Kind   string    `json:"kind"` // started, log or done
	Time   time.Time `json:"time"`
	Step   string    `json:"step"`
	Name   string    `json:"name"`
	Build  string    `json:"build,omitempty"`
	Cached bool      `json:"cached,omitempty"`
	Stream int       `json:"stream,omitempty"`
	Text   string    `json:"text,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// hub hands events to whoever listens. A listener that does not keep up loses
// log lines, never starts and ends, and never holds up a build.
type hub struct {
	mu        sync.Mutex
	listeners map[*listener]bool
	over      map[digest.Digest]string // steps told to be done, and the build they were of
	hide      func() *redactor         // finds the session's secrets; nil finds none
}

type listener struct {
	mu     sync.Mutex
	queue  []Event
	signal chan struct{}
}

// queueLimit is where a slow listener begins to lose log lines.
const queueLimit = 20000

func newHub() *hub {
	return &hub{listeners: map[*listener]bool{}, over: map[digest.Digest]string{}}
}

// seen says whether a step's end was told before, and of which build it was.
func (h *hub) seen(step digest.Digest) (build string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	build, ok = h.over[step]
	return build, ok
}

func (h *hub) publish(e Event) {
	if h.hide != nil {
		r := h.hide()
		e.Name, e.Text, e.Error = r.text(e.Name), r.text(e.Text), r.text(e.Error)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Kind == "done" && e.Error == "" && h.over[digest.Digest(e.Step)] == "" {
		h.over[digest.Digest(e.Step)] = e.Build
	}
	for l := range h.listeners {
		l.push(e)
	}
}

func (l *listener) push(e Event) {
	l.mu.Lock()
	if e.Kind != "log" || len(l.queue) < queueLimit {
		l.queue = append(l.queue, e)
	}
	l.mu.Unlock()
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

func (l *listener) take() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queue
	l.queue = nil
	return q
}

// serve streams events until the client goes.
func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	l := &listener{signal: make(chan struct{}, 1)}
	h.mu.Lock()
	h.listeners[l] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.listeners, l)
		h.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/jsonl")
	flush := http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	enc := json.NewEncoder(w)
	for {
		for _, e := range l.take() {
			if enc.Encode(e) != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-l.signal:
		}
	}
}

// feed turns the status of one build into events.
type feed struct {
	hub    *hub
	build  string
	names  map[digest.Digest]string
	began  map[digest.Digest]bool
	again  map[digest.Digest]*Event         // starts of steps that were done before, not told until they do something
	ended  map[digest.Digest]time.Time      // when a step's last interval was reported over
	closed map[digest.Digest]Event          // ends not told yet
	pieces map[digest.Digest]map[int][]byte // unfinished log lines by stream

	mu   sync.Mutex
	rest map[int][]byte // unfinished lines of a service
}

func (h *hub) feed(build string) *feed {
	return &feed{
		hub: h, build: build, names: map[digest.Digest]string{}, began: map[digest.Digest]bool{},
		ended: map[digest.Digest]time.Time{}, closed: map[digest.Digest]Event{}, again: map[digest.Digest]*Event{},
		pieces: map[digest.Digest]map[int][]byte{},
	}
}

// settle is how long a step must be over before its end is told: BuildKit
// reports one step as several intervals.
const settle = 150 * time.Millisecond

// run feeds from status until it closes.
func (f *feed) run(status <-chan *client.SolveStatus, watch func(*client.SolveStatus)) {
	tick := time.NewTicker(settle)
	defer tick.Stop()
	for {
		select {
		case st, ok := <-status:
			if !ok {
				f.settle(time.Time{})
				return
			}
			if watch != nil {
				watch(st)
			}
			f.add(st)
		case now := <-tick.C:
			f.settle(now.Add(-settle))
		}
	}
}

func (f *feed) add(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		f.names[v.Digest] = v.Name
		if v.Started != nil && !f.began[v.Digest] {
			f.began[v.Digest] = true
			f.send(v.Digest, Event{Kind: "started", Time: *v.Started})
		}
	}
	for _, l := range st.Logs {
		f.log(l)
	}
	for _, v := range st.Vertexes {
		switch {
		case v.Completed == nil:
			delete(f.closed, v.Digest)
		case v.Completed.After(f.ended[v.Digest]):
			f.ended[v.Digest] = *v.Completed
			f.closed[v.Digest] = Event{Kind: "done", Time: *v.Completed, Cached: v.Cached, Error: stripTokens(v.Error)}
		}
	}
}

// settle tells the ends that came before a time; all of them for the zero time.
func (f *feed) settle(before time.Time) {
	for step, e := range f.closed {
		if before.IsZero() || e.Time.Before(before) {
			f.flush(step, e.Time)
			f.send(step, e)
			delete(f.closed, step)
		}
	}
}

// send tells an event. A step that an earlier query has seen to its end is
// told again only if it does something: most are only looked up.
func (f *feed) send(step digest.Digest, e Event) {
	build, before := f.hub.seen(step)
	e.Step, e.Name, e.Build = string(step), f.names[step], f.build
	if e.Build == "" {
		e.Build = build
	}
	held := f.again[step]
	switch {
	case e.Kind == "started" && before:
		f.again[step] = &e
		return
	case e.Kind == "done" && e.Error == "" && held != nil:
		return
	case held != nil:
		f.hub.publish(*held)
		delete(f.again, step)
	}
	f.hub.publish(e)
}

// log splits what a step wrote into lines.
func (f *feed) log(l *client.VertexLog) {
	if f.pieces[l.Vertex] == nil {
		f.pieces[l.Vertex] = map[int][]byte{}
	}
	data := append(f.pieces[l.Vertex][l.Stream], l.Data...)
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		f.send(l.Vertex, Event{Kind: "log", Time: l.Timestamp, Stream: l.Stream, Text: string(bytes.TrimSuffix(data[:i], []byte{'\r'}))})
		data = data[i+1:]
	}
	f.pieces[l.Vertex][l.Stream] = append([]byte(nil), data...)
}

func (f *feed) flush(step digest.Digest, at time.Time) {
	for stream, data := range f.pieces[step] {
		if len(data) > 0 {
			f.send(step, Event{Kind: "log", Time: at, Stream: stream, Text: string(data)})
		}
	}
	delete(f.pieces, step)
}

// The events of a service are told at once: nobody else tells of it.
func (f *feed) service(r *running, e Event) {
	e.Step, e.Name, e.Time = "sha256:"+r.svc.key, r.svc.title(), time.Now()
	f.hub.publish(e)
}

func (f *feed) serviceBegan(r *running) { f.service(r, Event{Kind: "started"}) }

func (f *feed) serviceEnded(r *running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream, rest := range f.rest {
		if len(rest) > 0 {
			f.service(r, Event{Kind: "log", Stream: stream, Text: string(rest)})
		}
	}
	f.service(r, Event{Kind: "done"})
}

// line splits what a service prints into lines.
func (f *feed) line(r *running, stream int, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rest == nil {
		f.rest = map[int][]byte{}
	}
	data = append(f.rest[stream], data...)
	for {
		text, rest, ok := bytes.Cut(data, []byte{'\n'})
		if !ok {
			break
		}
		f.service(r, Event{Kind: "log", Stream: stream, Text: string(bytes.TrimSuffix(text, []byte{'\r'}))})
		data = rest
	}
	f.rest[stream] = append([]byte(nil), data...)
}
