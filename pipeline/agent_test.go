package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh/agent"
)

// agentOf has an ssh agent that holds one key answer at a socket until the
// script ends: agent SOCKET.
func agentOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agent SOCKET")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	ring := agent.NewKeyring()
	ts.Check(ring.Add(agent.AddedKey{PrivateKey: key, Comment: "a key"}))
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = agent.ServeAgent(ring, c) // until the other side ends it
			}()
		}
	}()
}
