package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"drydock/modules/artifact"

	"gopkg.in/yaml.v3"
)

// source is one YAML file, kept as nodes so that errors can name lines.
type source struct {
	place string // as errors call it
	root  *yaml.Node
	data  []byte
}

// parse reads one YAML document and its version.
func parse(place string, data []byte) (source, error) {
	s := source{place: place, data: data}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return s, usage(place+":1", "the file is empty", "begin it with version: 1")
		}
		return s, yamlError(s, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return s, usage(place+":1", "more than one YAML document", "put each in a file of its own")
	}
	s.root = doc.Content[0]
	if s.root.Kind != yaml.MappingNode {
		return s, usage(s.at(), "not a mapping", "begin the file with version: 1")
	}
	return s, s.checkVersion()
}

func (s source) checkVersion() error {
	n := value(s.root, "version")
	if n == nil {
		return usage(s.at(), "no version", "begin the file with version: 1")
	}
	v, err := strconv.Atoi(n.Value)
	switch {
	case err != nil || v < 1:
		return usage(s.at("version"), fmt.Sprintf("%q is not a version", n.Value), "write version: 1")
	case v > Version:
		return usage(s.at("version"), fmt.Sprintf("version %d is newer than this program reads (%d)", v, Version),
			"use a newer drydock for this catalog")
	}
	return nil
}

// decode fills into from the file; a field it does not have is an error.
func (s source) decode(into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(s.data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return yamlError(s, err)
	}
	return nil
}

// at is file:line of the node the path of keys and indexes leads to, or as far
// as it leads.
func (s source) at(path ...string) string {
	line := 1
	if s.root != nil {
		line = s.root.Line
		for n := s.root; n != nil && len(path) > 0; path = path[1:] {
			key, next := step(n, path[0])
			if next == nil {
				break
			}
			line, n = key.Line, next
		}
	}
	return s.place + ":" + strconv.Itoa(line)
}

func step(n *yaml.Node, key string) (at, next *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

func value(n *yaml.Node, key string) *yaml.Node {
	_, v := step(n, key)
	return v
}

var (
	yamlLine    = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	notFound    = regexp.MustCompile(`^field (.+) not found in type .*$`)
	wrongType   = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.+)$")
	typesInYAML = strings.NewReplacer("str", "text", "seq", "a list", "map", "a mapping", "int", "a number", "bool", "true or false", "float", "a number")
)

// yamlError gives every complaint of the YAML decoder its place.
func yamlError(s source, err error) error {
	var te *yaml.TypeError
	if errors.As(err, &te) {
		errs := make([]error, len(te.Errors))
		for i, line := range te.Errors {
			errs[i] = complaint(s, line)
		}
		return errors.Join(errs...)
	}
	var ae *artifact.Error
	if errors.As(err, &ae) {
		return usage(s.find(func(v string) bool { return v == ae.Place }), fmt.Sprintf("%q: %s", ae.Place, ae.Message), ae.Remedy)
	}
	if yamlLine.MatchString(err.Error()) {
		return complaint(s, err.Error())
	}
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	place := s.find(func(v string) bool { return v != "" && strings.Contains(message, strconv.Quote(v)) })
	return usage(place, message, "mend the value at that line")
}

// complaint turns one "line N: …" into an error at its place.
func complaint(s source, text string) error {
	place, remedy := s.place+":1", "see the catalog's documentation for the fields there are"
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		place, text = s.place+":"+m[1], m[2]
	}
	if m := notFound.FindStringSubmatch(text); m != nil {
		return usage(place, "unknown field "+m[1], remedy)
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		return usage(place, fmt.Sprintf("wrong type: %s where %s is wanted", given(m[1], m[2]), wanted(m[3])), "write "+wanted(m[3]))
	}
	return usage(place, text, "mend the YAML at that line")
}

func given(tag, text string) string {
	if text != "" {
		return strconv.Quote(text)
	}
	return typesInYAML.Replace(tag)
}

// wanted names a Go type as a writer of YAML would.
func wanted(t string) string {
	switch {
	case strings.HasPrefix(t, "[]"):
		return "a list"
	case strings.HasPrefix(t, "map["), strings.HasPrefix(t, "catalog."), strings.HasPrefix(t, "policy."):
		return "a mapping"
	case t == "bool":
		return "true or false"
	case strings.HasPrefix(t, "int"):
		return "a number"
	}
	return "text"
}

// find is file:line of the first scalar that matches.
func (s source) find(match func(string) bool) string {
	line := 1
	var walk func(*yaml.Node) bool
	walk = func(n *yaml.Node) bool {
		if n.Kind == yaml.ScalarNode && match(n.Value) {
			line = n.Line
			return true
		}
		for _, c := range n.Content {
			if walk(c) {
				return true
			}
		}
		return false
	}
	if s.root != nil {
		walk(s.root)
	}
	return s.place + ":" + strconv.Itoa(line)
}

// usage is an error a writer of the catalog can mend.
func usage(place, message, remedy string) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "reading catalog", Place: place, Message: message, Remedy: remedy}
}
