package blackbox

import "sync"

// tail keeps the last bytes written to it, from any goroutine.
type tail struct {
	keep int

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.keep {
		t.buf = append([]byte{}, t.buf[len(t.buf)-t.keep:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if len(b) > t.keep {
		b = b[len(b)-t.keep:]
	}
	return string(b)
}
