// Package ci tells which CI system the program runs in, what started the job
// and how to talk to the system's log. It reads the environment it is handed
// and nothing else.
package ci

import (
	"net/url"
	"path"
	"strings"
)

// Kind names a CI system.
type Kind string

// The CI systems. Generic is any other one that sets CI.
const (
	None    Kind = "none"
	GitLab  Kind = "gitlab"
	Azure   Kind = "azure-devops"
	GitHub  Kind = "github" // GitHub Actions and what speaks its dialect (Gitea, Forgejo)
	Generic Kind = "generic"
)

// What can start a run.
const (
	Local         = "local"
	ChangeRequest = "change-request"
	Branch        = "branch"
	Tag           = "tag"
	Schedule      = "schedule"
)

// JUnitGlob is where the CI files of this repository look for JUnit reports,
// relative to the checkout.
const JUnitGlob = "out/**/junit*.xml"

// CI is what the environment says about the job. Fields it does not say are "".
type CI struct {
	Kind           Kind
	Trigger        string // Local outside of CI
	Ref            string // branch or tag name, without refs/heads/ or refs/tags/; of a change request its source
	Revision       string // commit
	Target         string // branch a change request goes to
	TargetRevision string // commit its diff starts from, where the system knows
	Protected      bool   // the ref is protected and this is not a change request
	ProjectURL     string // of the source, without credentials
	JobURL         string
	Invocation     string // identifies this very run of the job; the provenance's invocationId
	Attempt        string
}

// InCI says that nobody sits in front of the program: keys are never made and
// nothing is asked.
func (c CI) InCI() bool { return c.Kind != None }

// env is the environment as a map; the last value of a name wins.
type env map[string]string

// get is the value of a name. An undefined variable mapped into a step's
// environment by an Azure pipeline stays the literal text of its macro.
func (e env) get(names ...string) string {
	for _, n := range names {
		if v := e[n]; v != "" && !strings.HasPrefix(v, "$(") {
			return v
		}
	}
	return ""
}

// Detect reads the environment of a job, as os.Environ gives it.
func Detect(environ []string) CI {
	e := env{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e[k] = v
		}
	}
	var c CI
	switch {
	case e.get("GITLAB_CI") != "":
		c = e.gitlab()
	case truthy(e.get("TF_BUILD")):
		c = e.azure()
	case truthy(e.get("GITHUB_ACTIONS")):
		c = e.github()
	case e.unknownCI():
		c = e.generic()
	default:
		c = CI{Kind: None, Trigger: Local}
	}
	if c.Kind == Azure || c.Kind == Generic { // the others say it themselves
		c.Protected = matchesAny(e.get("DRYDOCK_PROTECTED_REFS"), c.Ref)
	}
	if c.Trigger == ChangeRequest {
		c.Protected = false
	}
	return c
}

func truthy(s string) bool {
	switch strings.ToLower(s) {
	case "", "0", "false", "no":
		return false
	}
	return true
}

// unknownCI knows the variables other systems set; most set CI.
func (e env) unknownCI() bool {
	return truthy(e.get("CI")) || e.get("JENKINS_URL", "TEAMCITY_VERSION", "BUILDKITE", "CODEBUILD_BUILD_ID") != ""
}

// gitlab: GitLab CI/CD predefined variables.
func (e env) gitlab() CI {
	c := CI{
		Kind:           GitLab,
		Trigger:        Branch,
		Ref:            e.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME"),
		Revision:       e.get("CI_COMMIT_SHA"),
		Target:         e.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME"),
		TargetRevision: e.get("CI_MERGE_REQUEST_DIFF_BASE_SHA"),
		Protected:      e.get("CI_COMMIT_REF_PROTECTED") == "true",
		ProjectURL:     withoutUser(e.get("CI_PROJECT_URL")),
		JobURL:         withoutUser(e.get("CI_JOB_URL")),
		Invocation:     withoutUser(e.get("CI_JOB_URL", "CI_JOB_ID")),
	}
	source := e.get("CI_PIPELINE_SOURCE")
	switch {
	case source == "merge_request_event", source == "external_pull_request_event",
		e.get("CI_MERGE_REQUEST_IID", "CI_EXTERNAL_PULL_REQUEST_IID") != "":
		c.Trigger = ChangeRequest
	case source == "schedule":
		c.Trigger = Schedule
	case e.get("CI_COMMIT_TAG") != "":
		c.Trigger = Tag
	}
	return c
}

// azure: Azure DevOps predefined variables, in the form they have in a job's
// environment (upper case, dots as underscores). It has no variable for
// protected refs or the default branch: DRYDOCK_PROTECTED_REFS says.
func (e env) azure() CI {
	c := CI{
		Kind:       Azure,
		Trigger:    Branch,
		Ref:        branchName(e.get("SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCH")),
		Revision:   e.get("BUILD_SOURCEVERSION"),
		Target:     branchName(e.get("SYSTEM_PULLREQUEST_TARGETBRANCH", "SYSTEM_PULLREQUEST_TARGETBRANCHNAME")),
		ProjectURL: withoutUser(e.get("BUILD_REPOSITORY_URI")),
		Attempt:    e.get("SYSTEM_JOBATTEMPT"),
	}
	if base, project, id := e.get("SYSTEM_COLLECTIONURI", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"), e.get("SYSTEM_TEAMPROJECT"), e.get("BUILD_BUILDID"); base != "" && id != "" {
		c.JobURL = strings.TrimSuffix(withoutUser(base), "/") + "/" + url.PathEscape(project) + "/_build/results?buildId=" + url.QueryEscape(id)
		c.Invocation = c.JobURL
		if job := e.get("SYSTEM_JOBID"); job != "" {
			c.Invocation += "&j=" + url.QueryEscape(job)
		}
		if c.Attempt != "" {
			c.Invocation += "&attempt=" + url.QueryEscape(c.Attempt)
		}
	}
	switch {
	case e.get("BUILD_REASON") == "PullRequest", e.get("SYSTEM_PULLREQUEST_PULLREQUESTID") != "",
		strings.HasPrefix(e.get("BUILD_SOURCEBRANCH"), "refs/pull/"):
		c.Trigger = ChangeRequest
	case e.get("BUILD_REASON") == "Schedule":
		c.Trigger = Schedule
	case strings.HasPrefix(e.get("BUILD_SOURCEBRANCH"), "refs/tags/"):
		c.Trigger = Tag
	}
	return c
}

// github: the default environment variables of GitHub Actions.
func (e env) github() CI {
	c := CI{
		Kind:      GitHub,
		Trigger:   Branch,
		Ref:       e.get("GITHUB_HEAD_REF", "GITHUB_REF_NAME"),
		Revision:  e.get("GITHUB_SHA"),
		Target:    e.get("GITHUB_BASE_REF"),
		Protected: e.get("GITHUB_REF_PROTECTED") == "true",
		Attempt:   e.get("GITHUB_RUN_ATTEMPT"),
	}
	if server, repo := e.get("GITHUB_SERVER_URL"), e.get("GITHUB_REPOSITORY"); server != "" && repo != "" {
		c.ProjectURL = withoutUser(server) + "/" + repo
		if id := e.get("GITHUB_RUN_ID"); id != "" {
			c.JobURL = c.ProjectURL + "/actions/runs/" + id
			c.Invocation = c.JobURL
			if c.Attempt != "" {
				c.Invocation += "/attempts/" + c.Attempt
			}
		}
	}
	switch name := e.get("GITHUB_EVENT_NAME"); {
	case strings.HasPrefix(name, "pull_request"), e.get("GITHUB_HEAD_REF") != "":
		c.Trigger = ChangeRequest
	case name == "merge_group":
		c.Trigger = ChangeRequest
	case name == "schedule":
		c.Trigger = Schedule
	case e.get("GITHUB_REF_TYPE") == "tag":
		c.Trigger = Tag
	}
	return c
}

// generic reads what Jenkins' multibranch jobs say; any other system says only
// that it is there, and --trigger says the rest.
func (e env) generic() CI {
	c := CI{
		Kind:       Generic,
		Trigger:    Branch,
		Ref:        e.get("CHANGE_BRANCH", "TAG_NAME", "BRANCH_NAME"),
		Revision:   e.get("GIT_COMMIT"),
		Target:     e.get("CHANGE_TARGET"),
		ProjectURL: withoutUser(e.get("GIT_URL")),
		JobURL:     withoutUser(e.get("BUILD_URL")),
		Invocation: withoutUser(e.get("BUILD_URL")),
	}
	switch {
	case e.get("CHANGE_ID") != "":
		c.Trigger = ChangeRequest
	case e.get("TAG_NAME") != "":
		c.Trigger = Tag
	}
	return c
}

func branchName(ref string) string {
	for _, p := range []string{"refs/heads/", "refs/tags/"} {
		if s, ok := strings.CutPrefix(ref, p); ok {
			return s
		}
	}
	return ref
}

// withoutUser removes the user part of a URL: CI systems put tokens there.
func withoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	u.User = nil
	return u.String()
}

// matchesAny says whether ref matches one of the globs, which are separated by
// spaces or commas; "release/*" also matches "release/1/2".
func matchesAny(globs, ref string) bool {
	for _, g := range strings.FieldsFunc(globs, func(r rune) bool { return r == ' ' || r == ',' }) {
		g = branchName(g)
		if ok, err := path.Match(g, ref); err == nil && ok {
			return true
		}
		if p, ok := strings.CutSuffix(g, "/*"); ok && strings.HasPrefix(ref, p+"/") {
			return true
		}
	}
	return false
}
