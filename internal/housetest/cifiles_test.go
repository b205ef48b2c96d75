package housetest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const (
	gitlabFile = ".gitlab-ci.yml"
	azureFile  = "azure-pipelines.yml"
)

func TestCIFiles(t *testing.T) {
	tr := repository(t)
	none(t, gitlabFile, gitlabViolations(t, tr[gitlabFile]))
	none(t, azureFile, azureViolations(t, tr[azureFile]))
}

func TestCIFilesSeenFailing(t *testing.T) {
	tr := fixture(t, "cifiles.txtar")
	seen(
		t, gitlabViolations(t, tr[gitlabFile]),
		"asks for services", "mentions docker:dind", "mentions privileged", "the image is not a variable",
		"cache key does not name the trust", "cache lets protected refs read what others wrote", "caches keys",
		"job run is not one command", "job promote is not for protected refs only", "job promote does not take the summary's digests",
		"job run publishes no JUnit", "job extra is not expected",
	)
	seen(
		t, azureViolations(t, tr[azureFile]),
		"asks for services", "no variable DRYDOCK_JOB_IMAGE", "job run is not one command", "cache key does not name the trust", "caches keys",
		"publishes no JUnit, or only on success", "job promote is not for protected refs only", "job promote does not wait for run",
		"job promote does not take the summary's digests", "line 6: a variable's value has logic",
	)
}

// oneCommand is what a job may be: build the program, become it.
var oneCommand = regexp.MustCompile(`^CGO_ENABLED=0 go build -o (\S+) \./pipeline \|\| exit 3; exec (?:\$\(DRYDOCK_BECOME\) )?(\S+) (run|promote)( [^;&|$` + "`" + `]*)?$`)

// commandOf is the verb of a job's single command, "" if it is anything else.
func commandOf(lines []string) string {
	if len(lines) != 1 {
		return ""
	}
	m := oneCommand.FindStringSubmatch(lines[0])
	if m == nil || m[1] != m[2] {
		return ""
	}
	return m[3]
}

type gitlabJob struct {
	Image     any      `yaml:"image"`
	Services  any      `yaml:"services"`
	Script    []string `yaml:"script"`
	Before    []string `yaml:"before_script"`
	After     []string `yaml:"after_script"`
	Needs     []any    `yaml:"needs"`
	Rules     []rule   `yaml:"rules"`
	Artifacts struct {
		When    string            `yaml:"when"`
		Reports map[string]string `yaml:"reports"`
	} `yaml:"artifacts"`
	Cache *gitlabCache `yaml:"cache"`
}

type gitlabCache struct {
	Key       string   `yaml:"key"`
	Unprotect bool     `yaml:"unprotect"`
	Paths     []string `yaml:"paths"`
}

type rule struct {
	If   string `yaml:"if"`
	When string `yaml:"when"`
}

func gitlabViolations(t testing.TB, b []byte) []string {
	t.Helper()
	out := textViolations(b)
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	jobs := map[string]gitlabJob{}
	for name, node := range doc {
		switch name {
		case "variables", "stages", "workflow", "image":
			continue
		case "services":
			out = append(out, "asks for services")
			continue
		}
		var j gitlabJob
		if err := node.Decode(&j); err != nil {
			t.Fatal(err)
		}
		if j.Services != nil {
			out = append(out, "asks for services")
		}
		if j.Image != nil && j.Image != "$DRYDOCK_JOB_IMAGE" {
			out = append(out, "the image is not a variable")
		}
		if j.Cache != nil {
			out = append(out, gitlabCacheViolations(j.Cache)...)
		}
		jobs[name] = j
	}
	delete(jobs, "default")
	for name := range jobs {
		if name != "run" && name != "promote" {
			out = append(out, "job "+name+" is not expected")
			delete(jobs, name)
		}
	}
	return append(out, gitlabJobViolations(jobs)...)
}

func gitlabCacheViolations(c *gitlabCache) []string {
	var out []string
	if !strings.Contains(c.Key, "$CI_COMMIT_REF_PROTECTED") {
		out = append(out, "cache key does not name the trust")
	}
	if c.Unprotect {
		out = append(out, "cache lets protected refs read what others wrote")
	}
	return append(out, cachesKeys(c.Paths...)...)
}

func gitlabJobViolations(jobs map[string]gitlabJob) []string {
	var out []string
	for _, name := range []string{"run", "promote"} {
		j := jobs[name]
		if commandOf(j.Script) != name || len(j.Before)+len(j.After) > 0 {
			out = append(out, "job "+name+" is not one command")
		}
	}
	run, promote := jobs["run"], jobs["promote"]
	if run.Artifacts.When != "always" || run.Artifacts.Reports["junit"] != "out/**/junit*.xml" {
		out = append(out, "job run publishes no JUnit")
	}
	only, never := false, false
	for _, r := range promote.Rules {
		only = only || r.If == `$CI_COMMIT_REF_PROTECTED == "true"`
		never = never || (r.When == "never" && !only && strings.Contains(r.If, "merge_request_event"))
	}
	if !only || !never || len(promote.Rules) != 2 {
		out = append(out, "job promote is not for protected refs only")
	}
	if !strings.Contains(strings.Join(promote.Script, "\n"), "--summary out/summary.json") || len(promote.Needs) != 1 {
		out = append(out, "job promote does not take the summary's digests")
	}
	return out
}

// textViolations are words that may not stand outside of comments.
func textViolations(b []byte) []string {
	var out []string
	eachLine(b, func(_ int, line string) {
		line, _, _ = strings.Cut(line, "#")
		for _, word := range []string{"docker:dind", "privileged", "docker.sock", "--cap-add", "sudo "} {
			if strings.Contains(line, word) {
				out = append(out, "mentions "+word)
			}
		}
	})
	return out
}

func cachesKeys(paths ...string) []string {
	for _, p := range paths {
		if strings.Contains(p, "key") || strings.Trim(p, "/") == ".drydock" || strings.HasSuffix(p, ".drydock") || p == "out/" {
			return []string{"caches keys"}
		}
	}
	return nil
}

type azureJob struct {
	Job       string      `yaml:"job"`
	DependsOn string      `yaml:"dependsOn"`
	Condition string      `yaml:"condition"`
	Services  any         `yaml:"services"`
	Steps     []azureStep `yaml:"steps"`
}

type azureStep struct {
	Script    string            `yaml:"script"`
	Bash      string            `yaml:"bash"`
	Task      string            `yaml:"task"`
	Condition string            `yaml:"condition"`
	Inputs    map[string]string `yaml:"inputs"`
}

func azureViolations(t testing.TB, b []byte) []string {
	t.Helper()
	out := textViolations(b)
	var doc struct {
		Variables []yaml.Node `yaml:"variables"`
		Jobs      []azureJob  `yaml:"jobs"`
		Resources any         `yaml:"resources"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Resources != nil {
		out = append(out, "asks for services")
	}
	image := false
	for _, n := range doc.Variables {
		var v struct{ Name, Value string }
		if err := n.Decode(&v); err != nil {
			continue // a template expression
		}
		image = image || v.Name == "DRYDOCK_JOB_IMAGE"
		if strings.Contains(v.Value, "$[") {
			out = append(out, fmt.Sprintf("line %d: a variable's value has logic", n.Line))
		}
	}
	if !image {
		out = append(out, "no variable DRYDOCK_JOB_IMAGE")
	}
	names := ""
	for _, j := range doc.Jobs {
		names += j.Job + " "
		out = append(out, azureJobViolations(j)...)
	}
	if names != "run promote " {
		out = append(out, "jobs are "+names)
	}
	return out
}

func azureJobViolations(j azureJob) []string {
	var out []string
	var scripts []string
	junit := false
	for _, s := range j.Steps {
		if s.Script != "" {
			scripts = append(scripts, strings.TrimSpace(s.Script))
		}
		if s.Bash != "" {
			scripts = append(scripts, s.Bash)
		}
		if strings.HasPrefix(s.Task, "Cache@") {
			if !strings.Contains(s.Inputs["key"], "$(DRYDOCK_TRUST)") {
				out = append(out, "cache key does not name the trust")
			}
			out = append(out, cachesKeys(s.Inputs["path"])...)
		}
		if s.Task == "PublishTestResults@2" {
			junit = s.Condition == "always()" && s.Inputs["testResultsFiles"] == "out/**/junit*.xml" && s.Inputs["testResultsFormat"] == "JUnit"
		}
	}
	if commandOf(scripts) != j.Job {
		out = append(out, "job "+j.Job+" is not one command")
	}
	if j.Services != nil {
		out = append(out, "asks for services")
	}
	if j.Job == "run" && !junit {
		out = append(out, "publishes no JUnit, or only on success")
	}
	if j.Job != "promote" {
		return out
	}
	if !strings.Contains(j.Condition, "eq(variables.DRYDOCK_TRUST, 'protected')") || !strings.Contains(j.Condition, "succeeded()") {
		out = append(out, "job promote is not for protected refs only")
	}
	if j.DependsOn != "run" {
		out = append(out, "job promote does not wait for run")
	}
	if !strings.Contains(strings.Join(scripts, "\n"), "--summary out/summary.json") {
		out = append(out, "job promote does not take the summary's digests")
	}
	return out
}

// scripts lists the very command of each job, by file and job.
func scripts(t testing.TB, tr tree) map[string]string {
	t.Helper()
	var gitlab struct {
		Run     gitlabJob `yaml:"run"`
		Promote gitlabJob `yaml:"promote"`
	}
	var azure struct {
		Jobs []azureJob `yaml:"jobs"`
	}
	if err := yaml.Unmarshal(tr[gitlabFile], &gitlab); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(tr[azureFile], &azure); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{
		"gitlab run":     strings.Join(gitlab.Run.Script, "\n"),
		"gitlab promote": strings.Join(gitlab.Promote.Script, "\n"),
	}
	for _, j := range azure.Jobs {
		for _, s := range j.Steps {
			if s.Script != "" {
				out["azure "+j.Job] = s.Script
			}
		}
	}
	if len(out) != 4 {
		t.Fatalf("found %d scripts", len(out))
	}
	return out
}
