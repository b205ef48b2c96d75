package executor

import (
	"slices"
	"testing"

	"github.com/moby/sys/user"
)

func TestOwnHost(t *testing.T) {
	hosts := []Host{
		{Names: []string{"web", "svc-1"}, Ports: []Port{{Number: 80}, {Number: 8080}}},
		{Names: []string{"names"}, Ports: []Port{{Number: 53, UDP: true}}},
	}
	for _, tc := range []struct {
		line, first string
		port        int
	}{
		{"GET http://web/a?b=c HTTP/1.1\r\n", "GET /a?b=c HTTP/1.1\r\nConnection: close\r\n", 80},
		{"POST http://SVC-1:8080 HTTP/1.0\n", "POST / HTTP/1.0\r\nConnection: close\r\n", 8080},
		{"GET http://web:81/ HTTP/1.1\r\n", "", 0},
		{"GET http://names:53/ HTTP/1.1\r\n", "", 0},
		{"GET http://elsewhere.example/ HTTP/1.1\r\n", "", 0},
		{"GET https://web/ HTTP/1.1\r\n", "", 0},
		{"GET /page HTTP/1.1\r\n", "", 0},
		{"CONNECT web:8080 HTTP/1.1\r\n", "", 0},
		{"nothing\n", "", 0},
		{"", "", 0},
	} {
		h, port, first := ownHost(hosts, tc.line)
		if (h != nil) != (tc.port != 0) || port.Number != tc.port && h != nil || first != tc.first {
			t.Errorf("%q: host %v, port %v, %q", tc.line, h, port, first)
		}
	}
}

func TestGroupsOf(t *testing.T) {
	got := groupsOf(&user.ExecUser{Gid: 7, Sgids: []int{7, 3, 3, 9}})
	if !slices.Equal(got, []uint32{7, 3, 9}) {
		t.Errorf("groups %v", got)
	}
}
