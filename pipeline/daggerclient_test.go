package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"

	"dagger.io/dagger"
	"github.com/rogpeppe/go-internal/testscript"
)

// daggerClient is a program as others write them against a Dagger SDK. It
// knows nothing of drydock: its arguments say what to do with the container
// whose root is a directory of the host.
func daggerClient() {
	if err := daggerProgram(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "daggerclient:", err)
		var failed *dagger.ExecError
		if errors.As(err, &failed) {
			os.Exit(40 + failed.ExitCode)
		}
		os.Exit(1)
	}
}

func daggerProgram(ctx context.Context, args []string) error {
	switch args[0] {
	case "exit":
		code, err := strconv.Atoi(args[1])
		if err == nil {
			os.Exit(code)
		}
		return err
	case "token":
		return askWith(ctx, args[1])
	case "stdin":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	c, err := dagger.Connect(ctx, dagger.WithLogOutput(os.Stderr))
	if err != nil {
		return err
	}
	defer c.Close()
	switch args[0] {
	case "echo":
		text, err := c.Directory().WithNewFile("f", args[1]).File("f").Contents(ctx)
		fmt.Println(text)
		return err
	case "secret":
		text, err := c.Secret("env://" + args[1]).Plaintext(ctx)
		fmt.Println(text)
		return err
	case "run": // ROOT COMMAND...
		out, err := c.Container().WithRootfs(c.Host().Directory(args[1])).WithExec(args[2:]).Stdout(ctx)
		fmt.Print(out)
		return err
	case "serve": // ROOT COMMAND...: asks a service on port 80, which ROOT answers for
		root := c.Container().WithRootfs(c.Host().Directory(args[1]))
		svc := root.WithExposedPort(80).AsService(dagger.ContainerAsServiceOpts{Args: []string{"/bin/busybox", "httpd", "-f", "-h", "/"}})
		out, err := root.WithServiceBinding("low", svc).WithExec(args[2:]).Stdout(ctx)
		fmt.Print(out)
		return err
	}
	return fmt.Errorf("cannot %s", args[0])
}

// askWith asks with a token and tells the status.
func askWith(ctx context.Context, token string) error {
	url := "http://127.0.0.1:" + os.Getenv("DAGGER_SESSION_PORT") + "/query"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	if token == "right" {
		token = os.Getenv("DAGGER_SESSION_TOKEN")
	}
	req.SetBasicAuth(token, "")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	fmt.Println(resp.Status)
	return resp.Body.Close()
}

// copyBusybox copies the host's busybox: copybusybox DEST.
func copyBusybox(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: copybusybox DEST")
	}
	from, err := exec.LookPath("busybox")
	ts.Check(err)
	program, err := os.ReadFile(from)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), program, 0o755))
}
