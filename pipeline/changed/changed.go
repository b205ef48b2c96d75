// Package changed says which images of a catalog a change touches, and in what
// state the files they are built from are. It reads git and nothing else.
package changed

import (
	"context"

	"drydock/catalog"
)

// Request is what to compare.
type Request struct {
	Repo       string // a directory of the work tree
	Base       string // what to compare with: a branch, tag or commit; "" is the remote's default branch
	CatalogDir string // the catalog's directory
	Catalog    *catalog.Catalog
	Environ    []string // environment of git; nil is this process's own
}

// Selection is the outcome of a comparison.
type Selection struct {
	MergeBase string            // the commit compared with
	Files     []string          // what changed, relative to the repository, sorted
	Images    []string          // images touched, sorted; never nil
	Why       map[string]string // for each image the file or image that touched it
}

// Select compares the work tree with the merge base.
func Select(ctx context.Context, req Request) (*Selection, error) { return &Selection{}, nil }

// State is what git says of a directory.
type State struct {
	Revision string // HEAD commit, "" outside git or before the first commit
	Remote   string // URI of the remote, without credentials
	Ref      string // full name of the ref HEAD is on, "" when detached
	Dirty    string // why the directory is not a clean commit; "" when it is clean
}

// Describe reads the state of a directory.
func Describe(ctx context.Context, dir string, environ []string) (State, error) {
	return State{}, nil
}
