package warden

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestTranslateUsers: what owner and mode refuse, a step's other users are
// refused, though to the kernel they all are one.
func TestTranslateUsers(t *testing.T) {
	out, code := runTranslated(t, probeRoot(t), nil, "/bin/probe", "users")
	if code != 0 || out != "users: held apart\n" {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// probeUsers makes root's files and tries them as somebody else.
func probeUsers() error {
	var out []error
	for _, d := range []struct {
		name string
		mode uint32
	}{{"", 0o755}, {"/closed", 0o700}, {"/searched", 0o711}, {"/sticky", 0o1777}, {"/own", 0o755}} {
		out = append(out, unix.Mkdir("/tmp/x"+d.name, 0o755), unix.Chmod("/tmp/x"+d.name, d.mode))
	}
	for name, mode := range map[string]os.FileMode{
		"secret": 0o600, "shared": 0o644, "group": 0o640, "closed/in": 0o644, "searched/in": 0o644, "sticky/root": 0o666, "own/none": 0o600, "dropped": 0o666,
	} {
		out = append(out, os.WriteFile("/tmp/x/"+name, []byte("text"), 0o600), os.Chmod("/tmp/x/"+name, mode))
	}
	program, err := os.ReadFile("/bin/script")
	out = append(out, err, os.WriteFile("/tmp/x/program", program, 0o700), os.WriteFile("/tmp/x/closed/program", program, 0o755))
	out = append(out, os.Chown("/tmp/x/own", 5, 6), os.Chown("/tmp/x/own/none", 5, 6), os.Chmod("/tmp/x/own/none", 0), os.Chown("/tmp/x/group", 0, 6))
	out = append(out, os.Symlink("/tmp/x/secret", "/tmp/x/own/link"), os.Symlink("../new", "/tmp/x/own/dangling"), os.Symlink("made", "/tmp/x/own/makes"))
	f, err := os.Open("/tmp/x/secret")
	out = append(out, err)
	defer f.Close()
	c := exec.Command("/bin/probe", "other", strconv.Itoa(int(f.Fd())))
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 5, Gid: 6}}
	b, err := c.CombinedOutput()
	out = append(out, expect("as user 5", err, string(b), "no more than it may\n"))
	out = append(out, probePeers())
	b, err = os.ReadFile("/tmp/x/secret")
	return errors.Join(append(out, expect("root's file", err, string(b), "text"))...)
}

// probePeers: each end of a unix connection is told who is at the other.
func probePeers() error {
	var out []error
	for _, at := range []string{"/tmp/x/socket", "@abstract"} {
		l, err := net.Listen("unix", at)
		if err != nil {
			return err
		}
		defer l.Close()
		if at[0] == '/' {
			out = append(out, os.Chmod(at, 0o777))
		}
		c := exec.Command("/bin/probe", "peer", at)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 5, Gid: 6}}
		var told bytes.Buffer
		c.Stdout = &told
		if err := c.Start(); err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			return err
		}
		who, err := peerOf(s)
		out = append(out, expect("the client at "+at, err, who, fmt.Sprintf("%d 5 6", c.Process.Pid)), s.Close(), c.Wait())
		out = append(out, expect("the server at "+at, nil, told.String(), fmt.Sprintf("%d 0 0", os.Getpid())))
	}
	return errors.Join(out...)
}

// probePeer connects and says to whom.
func probePeer(at string) int {
	c, err := net.Dial("unix", at)
	if err != nil {
		fmt.Print(err)
		return 1
	}
	defer c.Close()
	who, err := peerOf(c)
	if err != nil {
		fmt.Print(err)
		return 1
	}
	fmt.Print(who)
	_, _ = c.Read(make([]byte, 1)) // until the server has looked
	return 0
}

func peerOf(c net.Conn) (who string, err error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *unix.Ucred
	err2 := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, err2); err != nil {
		return "", err
	}
	return fmt.Sprint(cred.Pid, cred.Uid, cred.Gid), nil
}

// probeOther is that somebody.
func probeOther(fd string) error {
	opened := func(name string, flags int) error {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	var st unix.Stat_t
	parent := "/proc/" + strconv.Itoa(os.Getppid())
	const x = "/tmp/x/"
	var out []error
	for what, err := range map[string][2]error{
		"who it is":                            {nil, expect("", nil, fmt.Sprint(os.Getuid(), os.Getgid()), "5 6")},
		"read":                                 {unix.EACCES, opened(x+"secret", unix.O_RDONLY)},
		"written":                              {unix.EACCES, opened(x+"secret", unix.O_WRONLY)},
		"emptied":                              {unix.EACCES, opened(x+"shared", unix.O_RDONLY|unix.O_TRUNC)},
		"truncated":                            {unix.EACCES, unix.Truncate(x+"shared", 0)},
		"read what all may":                    {nil, opened(x+"shared", unix.O_RDONLY)},
		"written what all may read":            {unix.EACCES, opened(x+"shared", unix.O_RDWR)},
		"created what is there":                {unix.EACCES, opened(x+"shared", unix.O_WRONLY|unix.O_CREAT)},
		"read as of the group":                 {nil, opened(x+"group", unix.O_RDONLY)},
		"its own that nobody may read":         {unix.EACCES, opened(x+"own/none", unix.O_RDONLY)},
		"read in a closed directory":           {unix.EACCES, opened(x+"closed/in", unix.O_RDONLY)},
		"up from a closed directory":           {unix.EACCES, opened(x+"closed/../shared", unix.O_RDONLY)},
		"up from an open directory":            {nil, opened(x+"own/.././../x/./shared", unix.O_RDONLY)},
		"up from the root":                     {nil, opened("/../../tmp/x/shared", unix.O_RDONLY)},
		"looked at in a closed directory":      {unix.EACCES, unix.Stat(x+"closed/in", &st)},
		"what is not in a closed directory":    {unix.EACCES, unix.Stat(x+"closed/no", &st)},
		"listed a closed directory":            {unix.EACCES, opened(x+"closed", unix.O_RDONLY|unix.O_DIRECTORY)},
		"looked at a closed directory":         {nil, unix.Stat(x+"closed", &st)},
		"read in a directory that is searched": {nil, opened(x+"searched/in", unix.O_RDONLY)},
		"listed what is to be searched":        {unix.EACCES, opened(x+"searched", unix.O_RDONLY)},
		"changed to a closed directory":        {unix.EACCES, unix.Chdir(x + "closed")},
		"through a link":                       {unix.EACCES, opened(x+"own/link", unix.O_RDONLY)},
		"the link":                             {nil, unix.Lstat(x+"own/link", &st)},
		"a file as a directory":                {unix.ENOTDIR, opened(x+"shared/", unix.O_RDONLY)},
		"made through a link":                  {unix.EACCES, opened(x+"own/dangling", unix.O_WRONLY|unix.O_CREAT)},
		"made in its own through a link":       {nil, opened(x+"own/makes", unix.O_WRONLY|unix.O_CREAT)},
		"removed":                              {unix.EACCES, unix.Unlink(x + "shared")},
		"removed what is not there":            {unix.ENOENT, unix.Unlink(x + "no")},
		"moved away":                           {unix.EACCES, unix.Rename(x+"shared", x+"own/shared")},
		"moved a directory":                    {unix.EACCES, unix.Rename(x+"closed", x+"own/closed")},
		"moved in":                             {unix.EACCES, unix.Rename(x+"own/makes", x+"makes")},
		"removed of another":                   {unix.EPERM, unix.Unlink(x + "sticky/root")},
		"moved of another":                     {unix.EPERM, unix.Rename(x+"sticky/root", x+"sticky/mine")},
		"wrote of another":                     {nil, opened(x+"sticky/root", unix.O_WRONLY)},
		"made a file":                          {unix.EACCES, opened(x+"new", unix.O_WRONLY|unix.O_CREAT)},
		"made one without a name":              {unix.EACCES, opened("/tmp/x", unix.O_WRONLY|unix.O_TMPFILE)},
		"made a directory that is there":       {unix.EEXIST, unix.Mkdir(x+"closed", 0o755)},
		"made a link that is there":            {unix.EEXIST, unix.Symlink("a", x+"closed")},
		"changed the mode":                     {unix.EPERM, unix.Chmod(x+"shared", 0o666)},
		"changed the owner":                    {unix.EPERM, unix.Chown(x+"shared", 5, 6)},
		"changed the times":                    {unix.EPERM, unix.UtimesNanoAt(unix.AT_FDCWD, x+"shared", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)},
		"touched":                              {unix.EACCES, touch(x + "shared")},
		"changed an attribute":                 {unix.EACCES, unix.Setxattr(x+"shared", "user.a", []byte("b"), 0)},
		"read an attribute":                    {unix.EACCES, attributeOf(x + "secret")},
		"executed":                             {unix.EACCES, exec.Command(x + "program").Run()},
		"executed in a closed directory":       {unix.EACCES, exec.Command(x + "closed/program").Run()},
		"executed what all may":                {nil, exec.Command("/bin/script").Run()},
		"what root has open":                   {unix.EACCES, opened(parent+"/fd/"+fd, unix.O_RDONLY)},
		"root's memory":                        {unix.EACCES, opened(parent+"/mem", unix.O_RDWR)},
		"root's environment":                   {unix.EACCES, opened(parent+"/environ", unix.O_RDONLY)},
		"who root is":                          {nil, opened(parent+"/status", unix.O_RDONLY)},
		"its own environment":                  {nil, opened("/proc/self/environ", unix.O_RDONLY)},
		"a path only, read":                    {unix.EACCES, readThrough(x + "secret")},
	} {
		if !errors.Is(err[1], err[0]) {
			out = append(out, fmt.Errorf("%s: %w, not %w", what, err[1], err[0]))
		}
	}
	return errors.Join(append(out, probeOwn())...)
}

// probeOwn: with its own files somebody does as ever.
func probeOwn() error {
	var p [2]int
	err := errors.Join(os.Chdir("/tmp/x/own"), os.Mkdir("d", 0o700), os.WriteFile("d/a", []byte("mine"), 0o600), os.Rename("d/a", "d/b"),
		os.Link("d/b", "../sticky/b"), os.Remove("../sticky/b"), os.Chmod("d/b", 0o400), unix.Pipe(p[:]))
	if err != nil {
		return err
	}
	b, err := os.ReadFile("d/b")
	out := []error{expect("its own", err, string(b), "mine"), os.RemoveAll("d")}
	f, err := os.OpenFile(fmt.Sprintf("/dev/fd/%d", p[1]), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("x")
		f.Close()
	}
	return errors.Join(append(out, err)...)
}

// readThrough reads a file by a descriptor that was opened as a path only.
func readThrough(name string) error {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening it as a path: %w", errors.ErrUnsupported)
	}
	defer unix.Close(fd)
	b := make([]byte, 8)
	if n, _ := unix.Read(fd, b); strings.HasPrefix(string(b[:max(n, 0)]), "text") {
		return errors.New("read")
	}
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(again)
	}
	return err
}

func attributeOf(name string) error {
	_, err := unix.Getxattr(name, "user.a", nil)
	return err
}

// touch is what touch(1) does: both times are now, which whoever may write may
// say.
func touch(name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	at := unix.AT_FDCWD
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(at), uintptr(unsafe.Pointer(p)), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
