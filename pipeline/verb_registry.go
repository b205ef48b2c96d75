package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

func (p *program) registryVerb() *cli.Command {
	return &cli.Command{
		Name:  "registry",
		Usage: "show the embedded stage registries to other tools, or list what is in a stage",
		Subcommands: []*cli.Command{
			{
				Name:  "serve",
				Usage: "serve the embedded registries for cosign, crane, skopeo and the like until interrupted",
				Description: `Serves every embedded stage under its name: <address>/<stage>/<image>@<digest>.
A run beside it pushes through it. Off the loopback it wants TLS and a password.`,
				Flags: append(
					commonFlags(),
					str("listen", "127.0.0.1:5000", "`ADDRESS` to listen on; port 0 picks one"),
					str("stage", "", "serve one stage alone, without its name in the path"),
					boolean("read-only", "refuse writes"),
					str("tls-cert", "", "PEM `FILE` of the server's certificate"),
					str("tls-key", "", "PEM `FILE` of its key"),
					str("username", "", "ask for this user name"),
					str("password-file", "", "`FILE` that holds the password asked for"),
				),
				Action: p.verb(p.serveRegistry),
			},
			{
				Name: "list", Usage: "list the images of a stage", ArgsUsage: "STAGE",
				Flags: commonFlags(), Action: p.verb(p.listRegistry),
			},
		},
	}
}

func (p *program) serveRegistry(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	o := registry.ServeOptions{
		Address: c.String("listen"), Stage: c.String("stage"), ReadOnly: c.Bool("read-only"),
		CertFile: c.String("tls-cert"), KeyFile: c.String("tls-key"), Username: c.String("username"),
		Ready: func(a net.Addr) {
			fmt.Fprintf(p.out, "serving on %s\n", a)
		},
	}
	if path := c.String("password-file"); path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return &artifact.Error{Kind: artifact.KindUsage, Op: "reading password", Place: path, Err: err, Remedy: "give a file that holds it with --password-file"}
		}
		o.Password = strings.TrimRight(string(raw), "\r\n")
	}
	if err := private(s.Data); err != nil {
		return err
	}
	embedded, err := registry.Open(c.Context, registryDir(s))
	if err != nil {
		return err
	}
	defer embedded.Close() //nolint:errcheck // the server ended before
	if err := p.makeStages(c.Context, s, embedded); err != nil {
		return err
	}
	if err := embedded.Serve(c.Context, o); err != nil {
		return err
	}
	return context.Cause(c.Context)
}

// makeStages makes the catalog's embedded stages, so that they take a push
// before the first run. A registry is served without a catalog as well.
func (p *program) makeStages(ctx context.Context, s settings, embedded *registry.Embedded) error {
	if _, err := os.Stat(s.Catalog); errors.Is(err, fs.ErrNotExist) && !s.catalogRef.Pinned() {
		return nil
	}
	cat, _, err := p.openCatalog(ctx, s)
	if err != nil {
		return err
	}
	for _, stage := range cat.Stages {
		if stage.Registry != "embedded" {
			continue
		}
		if _, err := embedded.Location(stage.Name); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) listRegistry(c *cli.Context, s settings) error {
	if c.NArg() != 1 {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "registry list",
			Message: "one stage is needed", Remedy: "for example: drydock registry list quarantine",
		}
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	images, err := ses.line.List(c.Context, c.Args().First())
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if s.JSON {
		return printJSON(p.out, map[string]any{"version": 1, "stage": c.Args().First(), "images": images})
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, i := range images {
		fmt.Fprintln(w, i.String())
	}
	return w.Flush()
}
