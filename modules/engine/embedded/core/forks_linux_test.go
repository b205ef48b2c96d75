package core

import "testing"

// forksDockerfile starts processes, opens files and looks for some while others
// end all the time, in a shell whose handler of SIGCHLD asks for nothing to be
// restarted.
const forksDockerfile = `FROM scratch
COPY . /
RUN i=0; while [ $i -lt 400 ]; do ( printf 1 | cat >/dev/null; /bin/busybox true && test -e /bin/busybox && echo >>/counted ) || echo lost; i=$((i+1)); done >/said 2>&1; \
 sort /said | uniq -c | head -n 5; test ! -s /said && test "$(wc -l </counted)" = 400
`

// TestForks: no call is lost to the signal of a child that ends, whoever
// answers it.
func TestForks(t *testing.T) {
	needModes(t)
	dir := ownersContext(t, forksDockerfile)
	want := ownersAs(t, dir, 0, 0, "")
	if want.Mode != modeRoot || want.Err != "" {
		t.Fatalf("as root: %+v", want)
	}
	inOtherModes(t, dir, want)
}
