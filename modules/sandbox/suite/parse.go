package suite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"drydock/modules/artifact"
)

// SchemaVersion is the container-structure-test version that is read.
const SchemaVersion = "2.0.0"

const parseOp = "reading tests"

// document is the file as it is written.
type document struct {
	SchemaVersion      string          `yaml:"schemaVersion"`
	GlobalEnvVars      []KeyValue      `yaml:"globalEnvVars"`
	CommandTests       []Command       `yaml:"commandTests"`
	FileExistenceTests []FileExistence `yaml:"fileExistenceTests"`
	FileContentTests   []FileContent   `yaml:"fileContentTests"`
	MetadataTest       *Metadata       `yaml:"metadataTest"`
	ServiceTests       []Service       `yaml:"serviceTests"` // ours, not part of the upstream schema
}

// Parse reads a container-structure-test file strictly: an unknown field, a
// wrong type or a test that could never hold is an error with file:line.
func Parse(data []byte, file string) (*Suite, error) {
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, problem(file, 1, "the file is empty", "start it with schemaVersion: 2.0.0")
		}
		return nil, decodeProblem(file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, problem(file, 1, "more than one document", "keep one document per file")
	}
	p := parser{file: file, root: &root}
	if err := p.refuseUnsupported(); err != nil {
		return nil, err
	}
	var doc document
	strict := yaml.NewDecoder(bytes.NewReader(data))
	strict.KnownFields(true)
	if err := strict.Decode(&doc); err != nil {
		return nil, decodeProblem(file, err)
	}
	if doc.SchemaVersion != SchemaVersion {
		return nil, problem(file, p.line("schemaVersion"), fmt.Sprintf("schemaVersion %q is not supported", doc.SchemaVersion),
			"write schemaVersion: "+SchemaVersion)
	}
	if err := p.check(&doc); err != nil {
		return nil, err
	}
	s := &Suite{
		GlobalEnvVars: doc.GlobalEnvVars, Commands: doc.CommandTests, Existence: doc.FileExistenceTests,
		Contents: doc.FileContentTests, Services: doc.ServiceTests,
	}
	if doc.MetadataTest != nil {
		s.Metadata = []Metadata{*doc.MetadataTest}
	}
	return s, nil
}

// parser finds the lines that errors speak of.
type parser struct {
	file string
	root *yaml.Node
}

// line is where the value at the path of keys and indexes starts; the nearest
// ancestor that exists, where it does not.
func (p parser) line(at ...any) int {
	n := p.root
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for _, step := range at {
		next := (*yaml.Node)(nil)
		switch v := step.(type) {
		case string:
			for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
				if n.Content[i].Value == v {
					next = n.Content[i+1]
				}
			}
		case int:
			if n.Kind == yaml.SequenceNode && v < len(n.Content) {
				next = n.Content[v]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return max(n.Line, 1)
}

// refuseUnsupported names the upstream features that are left out on purpose.
func (p parser) refuseUnsupported() error {
	for key, remedy := range map[string]string{
		"licenseTests":        "licences are read from the bill of materials; remove licenseTests",
		"containerRunOptions": "how the image runs is fixed by the sandbox; remove containerRunOptions",
	} {
		if p.has(key) {
			return problem(p.file, p.line(key), key+" is not supported", remedy)
		}
	}
	return nil
}

func (p parser) has(key string) bool {
	if len(p.root.Content) == 0 || p.root.Content[0].Kind != yaml.MappingNode {
		return false
	}
	m := p.root.Content[0].Content
	for i := 0; i < len(m); i += 2 {
		if m[i].Value == key {
			return true
		}
	}
	return false
}

// check refuses tests that are incomplete or cannot be evaluated.
func (p parser) check(d *document) error {
	return errors.Join(p.checkCommands(d), p.checkFiles(d), p.checkMetadata(d), p.checkServices(d))
}

func (p parser) checkCommands(d *document) error {
	for i, t := range d.CommandTests {
		at := []any{"commandTests", i}
		if err := p.named(t.Name, at); err != nil {
			return err
		}
		if t.Command == "" {
			return problem(p.file, p.line(at...), fmt.Sprintf("command test %q has no command", t.Name), "name the program to run in command:")
		}
		for _, l := range []struct {
			key  string
			list []string
		}{{"expectedOutput", t.ExpectedOutput}, {"excludedOutput", t.ExcludedOutput}, {"expectedError", t.ExpectedError}, {"excludedError", t.ExcludedError}} {
			if err := p.patterns(l.list, append(at, l.key)); err != nil {
				return err
			}
		}
		for _, l := range [][][]string{t.Setup, t.Teardown} {
			for _, c := range l {
				if len(c) == 0 {
					return problem(p.file, p.line(at...), fmt.Sprintf("command test %q has an empty setup or teardown command", t.Name), "remove it")
				}
			}
		}
	}
	return nil
}

var permissionsPattern = regexp.MustCompile(`^[-dlpsbc]([-r][-w][-xsS]){2}[-r][-w][-xtT]$`)

func (p parser) checkFiles(d *document) error {
	for i, t := range d.FileExistenceTests {
		at := []any{"fileExistenceTests", i}
		if err := errors.Join(p.named(t.Name, at), p.absolute(t.Path, at)); err != nil {
			return err
		}
		if t.Permissions != "" && !permissionsPattern.MatchString(t.Permissions) {
			return problem(p.file, p.line(append(at, "permissions")...), fmt.Sprintf("permissions %q are not in the form ls -l shows", t.Permissions), "write for example -rw-r--r--")
		}
		switch t.IsExecutableBy {
		case "", "owner", "group", "other", "any":
		default:
			return problem(p.file, p.line(append(at, "isExecutableBy")...), fmt.Sprintf("isExecutableBy %q is not known", t.IsExecutableBy), "write owner, group, other or any")
		}
	}
	for i, t := range d.FileContentTests {
		at := []any{"fileContentTests", i}
		if err := errors.Join(p.named(t.Name, at), p.absolute(t.Path, at)); err != nil {
			return err
		}
		if err := errors.Join(p.patterns(t.ExpectedContents, append(at, "expectedContents")), p.patterns(t.ExcludedContents, append(at, "excludedContents"))); err != nil {
			return err
		}
	}
	return nil
}

func (p parser) checkMetadata(d *document) error {
	if d.MetadataTest == nil {
		return nil
	}
	for key, list := range map[string][]KeyValue{"envVars": d.MetadataTest.EnvVars, "labels": d.MetadataTest.Labels} {
		for i, kv := range list {
			at := []any{"metadataTest", key, i}
			if kv.Key == "" {
				return problem(p.file, p.line(at...), "a "+key+" entry has no key", "add key:")
			}
			if kv.IsRegex {
				if err := p.patterns([]string{kv.Value}, at[:2]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (p parser) checkServices(d *document) error {
	for i, t := range d.ServiceTests {
		at := []any{"serviceTests", i}
		if err := p.named(t.Name, at); err != nil {
			return err
		}
		if err := t.Validate(); err != nil {
			return problem(p.file, p.line(at...), err.Error(), "see serviceTests in the documentation of the catalog")
		}
	}
	return nil
}

// Validate says what a service check lacks, if anything.
func (s Service) Validate() error {
	if s.Port < 1 || s.Port > 65535 {
		return fmt.Errorf("service check %q: port %d is not between 1 and 65535", s.Name, s.Port)
	}
	if s.HTTP != nil && (s.Send != "" || s.Expect != "") {
		return fmt.Errorf("service check %q has both http and send/expect", s.Name)
	}
	if s.Send != "" && s.Expect == "" {
		return fmt.Errorf("service check %q sends bytes but expects none", s.Name)
	}
	if s.Timeout < 0 {
		return fmt.Errorf("service check %q has a negative timeout", s.Name)
	}
	if s.HTTP != nil && s.HTTP.Path != "" && !strings.HasPrefix(s.HTTP.Path, "/") {
		return fmt.Errorf("service check %q: http path %q does not start with /", s.Name, s.HTTP.Path)
	}
	if _, err := regexp.Compile(s.Expect); err != nil {
		return fmt.Errorf("service check %q: %w", s.Name, err)
	}
	return nil
}

func (p parser) named(name string, at []any) error {
	if strings.TrimSpace(name) == "" {
		return problem(p.file, p.line(at...), "a test has no name", "add name:")
	}
	return nil
}

func (p parser) absolute(file string, at []any) error {
	if !path.IsAbs(file) {
		return problem(p.file, p.line(append(at, "path")...), fmt.Sprintf("path %q is not absolute", file), "start it with /")
	}
	return nil
}

func (p parser) patterns(list []string, at []any) error {
	for i, e := range list {
		if _, err := regexp.Compile(e); err != nil {
			return problem(p.file, p.line(append(append([]any{}, at...), i)...), err.Error(), "write a regular expression Go accepts (RE2)")
		}
	}
	return nil
}

var yamlLine = regexp.MustCompile(`line (\d+): (.*)`)

// decodeProblem takes file:line out of what the YAML package says.
func decodeProblem(file string, err error) error {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return problem(file, 1, strings.TrimPrefix(err.Error(), "yaml: "), "write valid YAML")
	}
	remedy := "see the container-structure-test format, schemaVersion " + SchemaVersion
	if strings.Contains(m[2], "not found in type") {
		m[2] = regexp.MustCompile(`field (\S+) not found in type \S+`).ReplaceAllString(m[2], `unknown field "$1"`)
	}
	return &artifact.Error{Kind: artifact.KindUsage, Op: parseOp, Place: file + ":" + m[1], Message: m[2], Remedy: remedy}
}

func problem(file string, line int, message, remedy string) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: parseOp, Place: fmt.Sprintf("%s:%d", file, line), Message: message, Remedy: remedy}
}
