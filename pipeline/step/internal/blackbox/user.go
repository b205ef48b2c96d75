package blackbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// User is who an image's process runs as.
type User struct {
	UID, GID int
	Groups   []int // supplementary
	Home     string
}

// user is who the image runs as by its own archive.
func (i *Image) user() (User, error) {
	if err := i.load(); err != nil {
		return User{}, err
	}
	read := func(name string) string {
		at, ok := i.resolve(name, true)
		if !ok {
			return ""
		}
		text, err := i.contents([]string{at})
		if err != nil {
			return ""
		}
		return text[at]
	}
	return LookupUser(i.Config.User, read("etc/passwd"), read("etc/group"))
}

// LookupUser resolves a USER with the text of /etc/passwd and /etc/group, as
// container engines do: "" is root, a number needs no entry.
func LookupUser(spec, passwd, group string) (User, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u := User{UID: -1, Home: "/"}
	numeric, err := strconv.Atoi(name)
	if err != nil {
		numeric = -1
	}
	for _, f := range records(passwd, 7) {
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if errors.Join(err1, err2) == nil && (f[0] == name || uid == numeric) {
			u.UID, u.GID = uid, gid
			name = f[0]
			if f[5] != "" {
				u.Home = f[5]
			}
			break
		}
	}
	if u.UID < 0 {
		if numeric < 0 {
			return User{}, fmt.Errorf("the image has no user %q in /etc/passwd", name)
		}
		u.UID = numeric
	}
	groups := records(group, 4)
	if hasGroup {
		return withGroup(u, groupName, groups)
	}
	for _, f := range groups {
		gid, err := strconv.Atoi(f[2])
		if err == nil && slices.Contains(strings.Split(f[3], ","), name) {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

// withGroup gives a user the one group USER names for it.
func withGroup(u User, groupName string, groups [][]string) (User, error) {
	gid, err := strconv.Atoi(groupName)
	for _, f := range groups {
		if n, bad := strconv.Atoi(f[2]); f[0] == groupName && bad == nil {
			gid, err = n, nil
		}
	}
	if err != nil {
		return User{}, fmt.Errorf("the image has no group %q in /etc/group", groupName)
	}
	u.GID = gid
	return u, nil
}

// records are the lines of a colon-separated file with enough fields.
func records(text string, fields int) [][]string {
	var out [][]string
	for _, l := range strings.Split(text, "\n") {
		if f := strings.Split(l, ":"); len(f) >= fields {
			out = append(out, f)
		}
	}
	return out
}
