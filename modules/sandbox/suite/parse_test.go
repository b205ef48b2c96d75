package suite

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

const full = `schemaVersion: 2.0.0
globalEnvVars:
  - key: A
    value: b
commandTests:
  - name: version
    setup: [["mkdir", "/tmp/x"]]
    teardown: [["rmdir", "/tmp/x"]]
    command: nginx
    args: ["-v"]
    envVars: [{key: PATH, value: "/x:$PATH"}]
    exitCode: 0
    expectedError: ["nginx/1\\."]
    excludedOutput: ["."]
fileExistenceTests:
  - name: config
    path: /etc/nginx/nginx.conf
    permissions: "-rw-r--r--"
    uid: 0
    gid: 0
  - name: no shell
    path: /bin/sh
    shouldExist: false
  - name: setuid
    path: /bin/su
    permissions: "-rwsr-xr-x"
    isExecutableBy: any
fileContentTests:
  - name: release
    path: /etc/os-release
    expectedContents: ["^ID=debian$", "bookworm"]
    excludedContents: ["sid"]
metadataTest:
  envVars: [{key: LANG, value: "C.*", isRegex: true}]
  unboundEnvVars: [{key: SECRET}]
  labels: [{key: a, value: b}]
  exposedPorts: ["80"]
  volumes: ["/data"]
  entrypoint: []
  cmd: ["nginx"]
  workdir: /
  user: www-data
serviceTests:
  - name: answers
    port: 80
    http: {path: /health, status: 204}
    timeout: 5s
  - name: pings
    port: 6379
    send: "PING\r\n"
    expect: '\+PONG'
`

func TestParse(t *testing.T) {
	t.Parallel()
	s, err := Parse([]byte(full), "tests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Commands) != 1 || s.Commands[0].Setup[0][1] != "/tmp/x" || len(s.Existence) != 3 || *s.Existence[1].ShouldExist || *s.Existence[0].UID != 0 {
		t.Errorf("parsed %+v", s)
	}
	m := s.Metadata[0]
	if m.Entrypoint == nil || len(*m.Entrypoint) != 0 || (*m.Cmd)[0] != "nginx" || !m.EnvVars[0].IsRegex {
		t.Errorf("metadata %+v", m)
	}
	if s.Services[0].Timeout != Duration(5*time.Second) || s.Services[1].Send != "PING\r\n" || s.Services[0].HTTP.Status != 204 {
		t.Errorf("services %+v", s.Services)
	}
	twice := Merge(s, nil, s)
	if len(twice.Commands) != 2 || len(twice.Metadata) != 2 || len(twice.Services) != 4 || !reflect.DeepEqual(Merge(s), s) {
		t.Errorf("merged %+v", twice)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const head = "schemaVersion: 2.0.0\n"
	for name, c := range map[string]struct{ yaml, want string }{
		"empty":               {"", "t.yaml:1: the file is empty"},
		"no version":          {"commandTests: []\n", `t.yaml:1: schemaVersion "" is not supported`},
		"old version":         {"# x\nschemaVersion: 1.0.0\n", `t.yaml:2: schemaVersion "1.0.0" is not supported`},
		"unknown field":       {head + "commandTests:\n  - name: a\n    comand: x\n", `t.yaml:4: unknown field "comand"`},
		"unknown section":     {head + "fileTests: []\n", `t.yaml:2: unknown field "fileTests"`},
		"wrong type":          {head + "commandTests:\n  - name: a\n    command: x\n    args: x\n", "t.yaml:5: cannot unmarshal"},
		"not YAML":            {head + "commandTests: [\n", "t.yaml:"},
		"two documents":       {head + "---\n" + head, "more than one document"},
		"no command":          {head + "commandTests:\n  - name: a\n", `t.yaml:3: command test "a" has no command`},
		"no name":             {head + "commandTests:\n  - name: a\n    command: x\n  - command: x\n", "t.yaml:5: a test has no name"},
		"empty setup":         {head + "commandTests:\n  - name: a\n    command: x\n    setup: [[]]\n", "t.yaml:3: command test"},
		"bad pattern":         {head + "commandTests:\n  - name: a\n    command: x\n    expectedOutput:\n      - ok\n      - \"(\"\n", "t.yaml:7: error parsing regexp"},
		"relative path":       {head + "fileExistenceTests:\n  - name: a\n    path: etc/passwd\n", `t.yaml:4: path "etc/passwd" is not absolute`},
		"bad permissions":     {head + "fileExistenceTests:\n  - name: a\n    path: /a\n    permissions: \"0644\"\n", "t.yaml:5: permissions"},
		"bad executable":      {head + "fileExistenceTests:\n  - name: a\n    path: /a\n    isExecutableBy: me\n", "t.yaml:5: isExecutableBy"},
		"bad content pattern": {head + "fileContentTests:\n  - name: a\n    path: /a\n    expectedContents: [\"[\"]\n", "t.yaml:5: error parsing regexp"},
		"label without key":   {head + "metadataTest:\n  labels:\n    - value: x\n", "t.yaml:4: a labels entry has no key"},
		"licences":            {head + "licenseTests: []\n", "t.yaml:2: licenseTests is not supported"},
		"run options":         {head + "containerRunOptions: {privileged: true}\n", "t.yaml:2: containerRunOptions is not supported"},
		"no port":             {head + "serviceTests:\n  - name: a\n", "t.yaml:3: service check \"a\": port 0"},
		"both protocols":      {head + "serviceTests:\n  - name: a\n    port: 1\n    http: {}\n    expect: x\n", "both http and send/expect"},
		"send alone":          {head + "serviceTests:\n  - name: a\n    port: 1\n    send: x\n", "expects none"},
		"bad expectation":     {head + "serviceTests:\n  - name: a\n    port: 1\n    expect: \"(\"\n", "t.yaml:3: service check"},
		"bad timeout":         {head + "serviceTests:\n  - name: a\n    port: 1\n    timeout: soon\n", "t.yaml:"},
		"relative request":    {head + "serviceTests:\n  - name: a\n    port: 1\n    http: {path: x}\n", "does not start with /"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.yaml), "t.yaml")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			var e *artifact.Error
			if !errors.As(err, &e) || e.Kind != artifact.KindUsage || e.Remedy == "" || !strings.HasPrefix(e.Place, "t.yaml:") {
				t.Errorf("error %+v", e)
			}
		})
	}
}

// FuzzParse holds that parsing never panics and that what it accepts has
// names, absolute paths and patterns that compile.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("schemaVersion: 2.0.0\nmetadataTest: {entrypoint: [a]}\n"))
	f.Add([]byte("- a\n- b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data, "f.yaml")
		if err != nil {
			return
		}
		for _, c := range s.Commands {
			if c.Name == "" || c.Command == "" {
				t.Errorf("accepted %+v", c)
			}
		}
		for _, e := range s.Existence {
			if !strings.HasPrefix(e.Path, "/") {
				t.Errorf("accepted %+v", e)
			}
		}
	})
}
