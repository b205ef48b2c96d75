package main

import (
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"drydock/internal/docgen"
)

// docsVerb prints docs/cli.md; a test holds the committed file to it.
func (p *program) docsVerb() *cli.Command {
	return &cli.Command{
		Name: "docs", Usage: "print the command reference as Markdown", Hidden: true,
		Action: func(c *cli.Context) error {
			_, err := io.WriteString(p.out, docgen.Markdown(newApp(p.streams, nil)))
			return err
		},
	}
}

func registryDir(s settings) string { return filepath.Join(s.Data, "registry") }
