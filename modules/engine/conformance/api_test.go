package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"dagger.io/dagger"
)

// Objects come back from their ids, in another request, whatever they are.
func TestIDs(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := busybox(t, c).WithMountedDirectory("/m", c.Directory().WithNewFile("f", "x")).WithExec(sh("cat /m/f > /out"))
		id, err := ctr.ID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dagger.Ref[*dagger.Container](c, id).File("/out").Contents(ctx); err != nil || got != "x" {
			t.Errorf("by node: %q, %v", got, err)
		}
		if got, err := c.LoadContainerFromID(dagger.ContainerID(id)).File("/out").Contents(ctx); err != nil || got != "x" {
			t.Errorf("by loadContainerFromID: %q, %v", got, err)
		}
		synced, err := ctr.Sync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := synced.File("/out").Contents(ctx); err != nil || got != "x" {
			t.Errorf("after sync: %q, %v", got, err)
		}
		again, err := ctr.ID(ctx)
		if err != nil || again != id {
			t.Errorf("the same container has two ids: %v", err)
		}
		if _, err := dagger.Load[*dagger.Container](ctx, c, id); err != nil {
			t.Errorf("load: %v", err)
		}
		if _, err := dagger.Load[*dagger.Directory](ctx, c, id); err == nil {
			t.Error("a container could be loaded as a directory")
		}
		fid, err := ctr.File("/out").ID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.LoadFileFromID(dagger.FileID(fid)).Contents(ctx); err != nil || got != "x" {
			t.Errorf("a file by id: %q, %v", got, err)
		}
	})
}

func TestBadQueries(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ask := func(query string) error {
			var data any
			return c.Do(within(t), &dagger.Request{Query: query}, &dagger.Response{Data: &data})
		}
		for name, query := range map[string]string{
			"unknown field":    `{container{sail}}`,
			"unknown argument": `{directory{file(path:"x",wind:"y"){contents}}}`,
			"missing argument": `{directory{file{contents}}}`,
			"wrong type":       `{directory{file(path:1){contents}}}`,
			"no selection":     `{directory}`,
			"syntax":           `{directory{`,
			"bad id":           `{loadContainerFromID(id:"nonsense"){workdir}}`,
			"bad node":         `{node(id:"nonsense"){id}}`,
		} {
			if err := ask(query); err == nil {
				t.Errorf("%s: no error", name)
			} else if name == "unknown field" && !strings.Contains(err.Error(), "sail") {
				t.Errorf("%s: the error does not name it: %v", name, err)
			}
		}
		if _, err := c.Container().Stdout(within(t)); err == nil {
			t.Error("stdout without a command: no error")
		}
		if _, err := c.Container().WithExec(nil).Sync(within(t)); err == nil {
			t.Error("no command: no error")
		}
	})
}

// Fields fan out, under aliases too, and lists of objects are selected into.
func TestSelections(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		var data struct {
			One, Two  struct{ Name, Contents string }
			Container struct {
				WithEnvVariable struct {
					EnvVariables []struct{ Name, Value string }
					Workdir      string
				}
			}
		}
		err := c.Do(within(t), &dagger.Request{
			Query: `query Q($text: String!) {
				one: file(name: "a", contents: $text) { name contents }
				two: file(name: "b", contents: """block""") { ...F }
				container { withEnvVariable(name: "N", value: "V") { envVariables { name value } workdir } }
			} fragment F on File { name contents }`,
			Variables: map[string]any{"text": "variable"}, OpName: "Q",
		}, &dagger.Response{Data: &data})
		if err != nil {
			t.Fatal(err)
		}
		if data.One.Contents != "variable" || data.Two.Name != "b" || data.Two.Contents != "block" {
			t.Errorf("got %+v", data)
		}
		if env := data.Container.WithEnvVariable.EnvVariables; len(env) != 1 || env[0].Name != "N" || env[0].Value != "V" {
			t.Errorf("variables %+v", env)
		}
	})
}

func TestCancellation(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c)
		if _, err := box.Sync(within(t)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := box.WithEnvVariable("NOW", fmt.Sprint(time.Now().UnixNano())).WithExec(sh("sleep 60; echo done"))
		began := time.Now()
		_, err := slow.Stdout(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("it took %s", d)
		}
		// cancelled, then retried
		quick := box.WithExec([]string{"echo", "again"})
		if got, err := quick.Stdout(within(t)); err != nil || got != "again\n" {
			t.Errorf("after a cancelled query: %q, %v", got, err)
		}
	})
}

func TestConcurrency(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box, ctx := busybox(t, c), within(t)
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				text := fmt.Sprintf("query %d", i%6) // pairs of equal ones
				got, err := box.WithExec([]string{"echo", text}).Stdout(ctx)
				if err != nil || got != text+"\n" {
					t.Errorf("got %q, %v; want %q", got, err, text)
				}
			}()
		}
		wg.Wait()
	})
}
