package progress

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	maxQueuedLogs = 10000           // log lines waiting for a slow reader; more are dropped
	closeWait     = 5 * time.Second // how long Close waits for a reader that does not read
)

// errStuck says that the reader of the progress output stopped reading.
var errStuck = errors.New("the progress output is not being read")

// renderer shows events; only the queue's goroutine calls it.
type renderer interface {
	handle(Event) error
	tick(time.Time) error // called now and then when the queue has an interval
	finish() error        // show what is left and give the terminal back
}

// queue is the Sink in front of every renderer: it decouples the pipeline from
// the reader of its output.
type queue struct {
	r     renderer
	every time.Duration
	wait  time.Duration // of Close

	mu      sync.Mutex
	events  []Event
	logs    int // log events in events
	dropped int
	closed  bool
	wake    chan struct{}
	done    chan struct{}
	err     error // first error of the renderer; read after done
}

var _ Sink = (*queue)(nil)

func newQueue(r renderer, every time.Duration) *queue {
	q := &queue{r: r, every: every, wait: closeWait, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.loop()
	return q
}

// Emit queues an event; it never waits for the reader.
func (q *queue) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	q.mu.Lock()
	switch {
	case q.closed:
	case e.Kind == Log && q.logs >= maxQueuedLogs:
		q.dropped++
	default:
		if e.Kind == Log {
			q.logs++
		}
		q.events = append(q.events, e)
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Close shows what is queued and ends; a reader that does not read is left
// behind after a few seconds.
func (q *queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	timer := time.NewTimer(q.wait)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.err
	case <-timer.C:
		return errStuck
	}
}

func (q *queue) loop() {
	defer close(q.done)
	var tick <-chan time.Time
	if q.every > 0 {
		t := time.NewTicker(q.every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-q.wake:
		case now := <-tick:
			q.keep(q.r.tick(now))
		}
		if q.drain() {
			q.keep(q.r.finish())
			return
		}
	}
}

// drain renders everything queued and says whether the queue was closed.
func (q *queue) drain() bool {
	q.mu.Lock()
	events, dropped, closed := q.events, q.dropped, q.closed
	q.events, q.logs, q.dropped = nil, 0, 0
	q.mu.Unlock()
	for _, e := range events {
		q.keep(q.r.handle(e))
	}
	if dropped > 0 {
		q.keep(q.r.handle(Event{
			Time: time.Now(), Kind: Note,
			Text: fmt.Sprintf("%d log lines were not shown: the output is read too slowly", dropped),
		}))
	}
	return closed
}

func (q *queue) keep(err error) {
	if q.err == nil {
		q.err = err
	}
}
