package blackbox

import (
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/sandbox/suite"
	"drydock/pipeline/step/internal/imagetest"
)

func open(t *testing.T, img imagetest.Image) *Image {
	t.Helper()
	path, _ := imagetest.Write(t, img)
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i
}

func testImage() imagetest.Image {
	return imagetest.Image{
		Config: map[string]any{
			"User": "app", "Env": []string{"PATH=/bin", "LANG=C.UTF-8"}, "Entrypoint": []string{"/bin/app"}, "Cmd": []string{"-d"}, "WorkingDir": "/data",
			"ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "Volumes": map[string]any{"/data": map[string]any{}}, "Labels": map[string]string{"a": "b"},
		},
		Layers: []imagetest.Layer{
			{Compression: "gzip", Files: []imagetest.File{
				{Name: "bin", Link: "usr/bin"}, {Name: "usr/", Dir: true}, {Name: "usr/bin/", Dir: true},
				{Name: "usr/bin/app", Body: "ELF", Mode: 0o755}, {Name: "usr/bin/su", Body: "su", Mode: 0o4755}, {Name: "usr/bin/app2", Hard: "usr/bin/app"},
				{Name: "etc/", Dir: true}, {Name: "etc/passwd", Body: "root:x:0:0::/root:/bin/sh\napp:x:1001:1001::/data:/bin/sh\n"},
				{Name: "etc/group", Body: "app:x:1001:\nextra:x:5:app,other\n"},
				{Name: "etc/gone", Body: "x"}, {Name: "etc/old/", Dir: true}, {Name: "etc/old/file", Body: "x"}, {Name: "etc/conf", Body: "first"},
			}},
			{Compression: "zstd", Files: []imagetest.File{
				{Name: "etc/.wh.gone"}, {Name: "etc/old/.wh..wh..opq"}, {Name: "etc/old/new", Body: "n"}, {Name: "etc/conf", Body: "second\nline", UID: 7, GID: 8, Mode: 0o600},
				{Name: "etc/loop", Link: "loop"}, {Name: "etc/up", Link: "../../../../etc/conf"}, {Name: "tmp/", Dir: true, Mode: 0o1777},
			}},
		},
	}
}

func yes(b bool) *bool { return &b }
func num(i int) *int   { return &i }

func TestExistence(t *testing.T) {
	t.Parallel()
	img := open(t, testImage())
	for _, c := range []struct {
		test suite.FileExistence
		want string // "" passes
	}{
		{suite.FileExistence{Path: "/usr/bin/app", Permissions: "-rwxr-xr-x", UID: num(0), IsExecutableBy: "other"}, ""},
		{suite.FileExistence{Path: "/bin/app"}, ""},
		{suite.FileExistence{Path: "/bin/app2", Permissions: "-rwxr-xr-x"}, ""},
		{suite.FileExistence{Path: "/bin/su", Permissions: "-rwsr-xr-x"}, ""},
		{suite.FileExistence{Path: "/bin/su", Permissions: "urwxr-xr-x"}, ""},
		{suite.FileExistence{Path: "/bin", Permissions: "drwxr-xr-x"}, ""},
		{suite.FileExistence{Path: "/tmp/", Permissions: "drwxrwxrwt"}, ""},
		{suite.FileExistence{Path: "/"}, ""},
		{suite.FileExistence{Path: "/etc/gone"}, "does not exist"},
		{suite.FileExistence{Path: "/etc/gone", ShouldExist: yes(false)}, ""},
		{suite.FileExistence{Path: "/etc/old/file"}, "does not exist"},
		{suite.FileExistence{Path: "/etc/old/new"}, ""},
		{suite.FileExistence{Path: "/etc/conf", ShouldExist: yes(false)}, "exists"},
		{suite.FileExistence{Path: "/etc/conf", Permissions: "-rw-r--r--"}, "-rw-------"},
		{suite.FileExistence{Path: "/etc/conf", UID: num(0)}, "user 7"},
		{suite.FileExistence{Path: "/etc/conf", GID: num(0)}, "group 8"},
		{suite.FileExistence{Path: "/etc/conf", IsExecutableBy: "any"}, "executable"},
		{suite.FileExistence{Path: "/etc/loop/x"}, "does not exist"},
		{suite.FileExistence{Path: "/etc/up", UID: num(7)}, ""},
	} {
		if err := img.load(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(existence(img, c.test), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", imagetest.JSON(c.test), got, c.want)
		}
	}
}

func TestContentsAndMetadata(t *testing.T) {
	t.Parallel()
	img := open(t, testImage())
	entry, none := []string{"/bin/app"}, []string{}
	for _, c := range []struct {
		suite suite.Suite
		want  string
	}{
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc/conf", ExpectedContents: []string{"(?m)^line$"}, ExcludedContents: []string{"first"}}}}, ""},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc/up", ExpectedContents: []string{"second"}}}}, ""},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/bin/app2", ExpectedContents: []string{"^ELF$"}}}}, ""},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc/conf", ExpectedContents: []string{"third"}}}}, "does not match"},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc/conf", ExcludedContents: []string{"second"}}}}, "excluded"},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc/gone"}}}, "does not exist"},
		{suite.Suite{Contents: []suite.FileContent{{Path: "/etc"}}}, "not a regular file"},
		{suite.Suite{Metadata: []suite.Metadata{{User: "app", Workdir: "/data", Entrypoint: &entry, ExposedPorts: []string{"80", "80/tcp"}, UnexposedPorts: []string{"443"}, Volumes: []string{"/data"}, UnmountedVolumes: []string{"/x"}, Labels: []suite.KeyValue{{Key: "a", Value: "b"}}, EnvVars: []suite.KeyValue{{Key: "LANG", Value: "UTF-8$", IsRegex: true}}, UnboundEnvVars: []suite.KeyValue{{Key: "SECRET"}}}}}, ""},
		{suite.Suite{Metadata: []suite.Metadata{{User: "root"}}}, "want \"root\""},
		{suite.Suite{Metadata: []suite.Metadata{{Cmd: &none}}}, "cmd is"},
		{suite.Suite{Metadata: []suite.Metadata{{ExposedPorts: []string{"443"}}}}, "port 443/tcp"},
		{suite.Suite{Metadata: []suite.Metadata{{EnvVars: []suite.KeyValue{{Key: "NONE"}}}}}, "not set"},
		{suite.Suite{Metadata: []suite.Metadata{{UnboundEnvVars: []suite.KeyValue{{Key: "PATH"}}}}}, "is set"},
	} {
		r, err := Static(img, &suite.Request{Suite: c.suite})
		if err != nil || len(r) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		if (c.want == "") != (r[0].Status == "passed") || !strings.Contains(r[0].Message, c.want) {
			t.Errorf("%s: %+v, want %q", imagetest.JSON(c.suite), r[0], c.want)
		}
	}
}

func TestNonRoot(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{"app": "passed", "1001:5": "passed", "7": "passed", "": "failed", "0": "failed", "root:app": "failed", "nobody-knows": "failed"} {
		img := testImage()
		img.Config = map[string]any{"User": user}
		r, err := Static(open(t, img), &suite.Request{NonRoot: true})
		if err != nil || r[0].Status != want {
			t.Errorf("user %q: %+v, %v, want %s", user, r, err, want)
		}
	}
}

func TestLookupUser(t *testing.T) {
	t.Parallel()
	const passwd, group = "root:x:0:0::/root:\napp:x:1001:1002::/data:\nbroken\n", "app:x:1002:\nextra:x:5:app\nwheel:x:6:other\n"
	for spec, want := range map[string]User{
		"":          {UID: 0, GID: 0, Home: "/root"},
		"app":       {UID: 1001, GID: 1002, Groups: []int{5}, Home: "/data"},
		"1001":      {UID: 1001, GID: 1002, Groups: []int{5}, Home: "/data"},
		"app:6":     {UID: 1001, GID: 6, Home: "/data"},
		"app:extra": {UID: 1001, GID: 5, Home: "/data"},
		"4000":      {UID: 4000, GID: 0, Home: "/"},
		"4000:4":    {UID: 4000, GID: 4, Home: "/"},
	} {
		got, err := LookupUser(spec, passwd, group)
		if err != nil || imagetest.JSON(got) != imagetest.JSON(want) {
			t.Errorf("%q: %+v, %v, want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"none", "app:none"} {
		if u, err := LookupUser(spec, passwd, group); err == nil {
			t.Errorf("%q is %+v", spec, u)
		}
	}
}

func TestUnrunAndReport(t *testing.T) {
	t.Parallel()
	req := &suite.Request{Suite: suite.Suite{Commands: []suite.Command{{Name: "a"}}, Services: []suite.Service{{Name: "b"}}}}
	r := Report(Unrun(req, false, "why"), artifact.Confinement{}, true)
	if r.Skipped != 2 || r.Failed != 0 || r.Results[1].Message != "why" || r.Results[1].Kind != "service" {
		t.Errorf("%+v", r)
	}
	if r := Report(Unrun(req, true, "why"), artifact.Confinement{}, false); r.Failed != 2 {
		t.Errorf("%+v", r)
	}
}

func TestHostileLinks(t *testing.T) {
	t.Parallel()
	img := open(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{
		{Name: "a", Link: "b"}, {Name: "b", Link: "a"}, {Name: "h1", Hard: "h2"}, {Name: "h2", Hard: "h1"}, {Name: "../../x", Body: "outside"},
	}}}})
	r, err := Static(img, &suite.Request{Suite: suite.Suite{
		Existence: []suite.FileExistence{{Name: "loop", Path: "/a/x"}, {Name: "hard", Path: "/h1", UID: num(0)}},
		Contents:  []suite.FileContent{{Name: "loop", Path: "/a"}, {Name: "hard", Path: "/h1"}},
	}})
	if err != nil || len(r) != 4 || r[0].Status != "failed" || r[2].Status != "failed" || r[3].Status != "failed" {
		t.Errorf("%+v, %v", r, err)
	}
}
