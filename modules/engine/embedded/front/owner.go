//go:build linux

package front

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// owner is a user and a group by number.
type owner struct{ uid, gid int }

func (o *owner) opt() *llb.ChownOpt {
	if o == nil {
		return nil
	}
	return &llb.ChownOpt{User: &llb.UserOpt{UID: o.uid}, Group: &llb.UserOpt{UID: o.gid}}
}

// ids are the numbers, 0 of nobody in particular.
func (o *owner) ids() (uid, gid uint32) {
	if o == nil {
		return 0, 0
	}
	return uint32(o.uid), uint32(o.gid)
}

// owner reads user[:group], each a number or a name known in root. A missing
// group is the number of the user.
func (c *call) owner(ctx context.Context, root *directory, text string) (*owner, error) {
	if text == "" {
		return nil, nil
	}
	user, group, hasGroup := strings.Cut(text, ":")
	uid, err := c.lookup(ctx, root, user, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	o := &owner{uid: uid, gid: uid}
	if hasGroup {
		o.gid, err = c.lookup(ctx, root, group, "/etc/group")
	}
	return o, err
}

// lookup finds the number of a name; passwd and group both have it third.
func (c *call) lookup(ctx context.Context, root *directory, name, database string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	if name == "root" {
		return 0, nil
	}
	unknown := usage(fmt.Sprintf("%s.%s: no %q in %s", c.typ, c.field, name, database), "give a number, or a name the container has")
	if root == nil {
		return 0, unknown
	}
	var buf bytes.Buffer
	err := c.withRef(ctx, root.state, root.platform, func(ctx context.Context, ref gateway.Reference) error {
		_, err := copyFile(ctx, ref, database, &buf)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("looking up %q: %w", name, err)
	}
	for _, line := range strings.Split(buf.String(), "\n") {
		fields := strings.Split(line, ":")
		if len(fields) < 3 || fields[0] != name {
			continue
		}
		if n, err := strconv.ParseUint(fields[2], 10, 31); err == nil {
			return int(n), nil
		}
	}
	return 0, unknown
}
