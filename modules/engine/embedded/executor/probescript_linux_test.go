package executor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// probeScript does one thing a line and fails at the first that fails.
func probeScript(text string) int {
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(line)
		if err := probeLine(f[0], append(f[1:], "", "", "")); err != nil {
			fmt.Println(line, "-", err)
			return 1
		}
	}
	return 0
}

func probeLine(verb string, a []string) error {
	switch verb {
	case "expect", "contains":
		b, err := os.ReadFile(a[0])
		if err == nil && (verb == "expect" && string(b) != a[1] || !strings.Contains(string(b), a[1])) {
			err = fmt.Errorf("it has %.200q", b)
		}
		return err
	case "absent":
		if _, err := os.ReadFile(a[0]); !os.IsNotExist(err) {
			return errors.Join(errors.New("it is there"), err)
		}
	case "write":
		return os.WriteFile(a[0], []byte(a[1]), 0o644)
	case "fill":
		n, _ := strconv.Atoi(a[1])
		return os.WriteFile(a[0], make([]byte, n), 0o644)
	case "append":
		f, err := os.OpenFile(a[0], os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			defer f.Close()
			_, err = f.WriteString(a[1])
		}
		return err
	case "refused":
		if os.WriteFile(a[0], nil, 0o644) == nil {
			return fmt.Errorf("it could be written")
		}
	case "fails": // with that errno
		err := probeLine(a[1], append(slices.Clone(a[2:]), "", "", ""))
		if n, _ := strconv.Atoi(a[0]); !errors.Is(err, syscall.Errno(n)) {
			return errors.Join(errors.New("it ended otherwise"), err)
		}
	case "kill": // who said "here"
		n, _ := strconv.Atoi(a[0])
		b, err := os.ReadFile("/tmp/here")
		pid, cerr := strconv.Atoi(string(b))
		if err = errors.Join(err, cerr); err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.Signal(n))
	case "here":
		return os.WriteFile("/tmp/here", []byte(strconv.Itoa(os.Getpid())), 0o644)
	case "mkdir":
		return os.Mkdir(a[0], 0o755)
	case "chmod":
		return os.Chmod(a[0], 0o600)
	case "touch":
		now := time.Unix(1e9, 0)
		return os.Chtimes(a[0], now, now)
	case "cd":
		return os.Chdir(a[0])
	case "remove":
		return os.RemoveAll(a[0])
	case "move":
		return os.Rename(a[0], a[1])
	case "link":
		return os.Link(a[0], a[1])
	case "mode":
		fi, err := os.Stat(a[0])
		if err != nil {
			return err
		}
		if got := strconv.FormatUint(uint64(fi.Sys().(*syscall.Stat_t).Mode&0o7777), 8); got != a[1] {
			return fmt.Errorf("it has mode %s", got)
		}
	case "sleep":
		n, _ := strconv.Atoi(a[0])
		time.Sleep(time.Duration(n) * time.Millisecond)
	case "ignore":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	case "fetch":
		return probeFetch(a[0], strings.ReplaceAll(a[1], "+", " "))
	case "unset":
		return errors.Join(os.Unsetenv(a[0]), os.Unsetenv(a[1]))
	case "talk":
		return probeTalk(a[0], a[1], a[2])
	case "serve":
		return probeServe(a[0], a[1], a[2])
	case "stderr":
		fmt.Fprintln(os.Stderr, a[0])
	default:
		return fmt.Errorf("no such verb")
	}
	return nil
}

// probeTalk connects and expects to be told something.
func probeTalk(network, address, want string) error {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	if err == nil && string(b) != want {
		err = fmt.Errorf("it said %q", b)
	}
	return err
}

// probeServe listens, and talks to itself at another address of the listener.
func probeServe(network, listen, dial string) error {
	l, err := net.Listen(network, listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if at := l.Addr().String(); network == "unix" && at != listen {
		return fmt.Errorf("its name is %s", at)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// servers decide by this what is asked from within
			if peer, tcp := c.RemoteAddr().(*net.TCPAddr); !tcp || peer.IP.Equal(net.IPv4(127, 0, 0, 1)) {
				_, _ = c.Write([]byte("served"))
			}
			c.Close()
		}
	}()
	if dial == "" {
		dial = l.Addr().String()
	}
	return probeTalk(network, dial, "served")
}
