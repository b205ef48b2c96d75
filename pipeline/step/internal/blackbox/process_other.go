//go:build !linux

package blackbox

import (
	"errors"
	"io"
)

type process struct {
	done chan struct{}
	code int
	how  string
}

func start([]string, []string, string, io.Writer, io.Writer) (*process, error) {
	return nil, errors.New("images run on Linux only")
}
func (p *process) terminate() {}
func (p *process) kill()      {}
func becomeReaper()           {}
func reapAll()                {}
