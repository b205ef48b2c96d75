package ci

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

const sha = "5f2b9a1c0d3e4f5a6b7c8d9e0f1a2b3c4d5e6f70"

func TestDetect(t *testing.T) {
	gitlab := []string{
		"CI=true", "GITLAB_CI=true", "CI_PROJECT_URL=https://gitlab.example/ops/images",
		"CI_JOB_ID=4711", "CI_JOB_URL=https://gitlab.example/ops/images/-/jobs/4711", "CI_COMMIT_SHA=" + sha, "CI_DEFAULT_BRANCH=main",
	}
	azure := []string{
		"TF_BUILD=True", "BUILD_BUILDID=815", "BUILD_SOURCEVERSION=" + sha, "SYSTEM_JOBID=12f1170f", "SYSTEM_JOBATTEMPT=2",
		"SYSTEM_COLLECTIONURI=https://dev.example/acme/", "SYSTEM_TEAMPROJECT=Base Images",
		"BUILD_REPOSITORY_URI=https://acme@dev.example/acme/Base%20Images/_git/images",
	}
	github := []string{
		"CI=true", "GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://git.example", "GITHUB_REPOSITORY=ops/images",
		"GITHUB_RUN_ID=99", "GITHUB_RUN_ATTEMPT=3", "GITHUB_SHA=" + sha,
	}
	gl := CI{
		Kind: GitLab, Revision: sha, ProjectURL: "https://gitlab.example/ops/images",
		JobURL: "https://gitlab.example/ops/images/-/jobs/4711", Invocation: "https://gitlab.example/ops/images/-/jobs/4711",
	}
	const azJob = "https://dev.example/acme/Base%20Images/_build/results?buildId=815"
	az := CI{
		Kind: Azure, Revision: sha, ProjectURL: "https://dev.example/acme/Base%20Images/_git/images",
		JobURL: azJob, Invocation: azJob + "&j=12f1170f&attempt=2", Attempt: "2",
	}
	gh := CI{
		Kind: GitHub, Revision: sha, ProjectURL: "https://git.example/ops/images", Attempt: "3",
		JobURL: "https://git.example/ops/images/actions/runs/99", Invocation: "https://git.example/ops/images/actions/runs/99/attempts/3",
	}
	with := func(c CI, trigger, ref string, protected bool, target ...string) CI {
		c.Trigger, c.Ref, c.Protected = trigger, ref, protected
		if len(target) > 0 {
			c.Target = target[0]
		}
		if len(target) > 1 {
			c.TargetRevision = target[1]
		}
		return c
	}
	tests := []struct {
		name string
		base []string
		env  string
		want CI
	}{
		{"laptop", nil, "HOME=/home/a PATH=/bin", CI{Kind: None, Trigger: Local}},
		{"CI switched off", nil, "CI=false", CI{Kind: None, Trigger: Local}},
		{"laptop with protected refs set", nil, "DRYDOCK_PROTECTED_REFS=main", CI{Kind: None, Trigger: Local}},
		{"unknown CI", nil, "CI=true", CI{Kind: Generic, Trigger: Branch}},
		{"unknown CI, 1", nil, "CI=1", CI{Kind: Generic, Trigger: Branch}},
		{"teamcity sets no CI", nil, "TEAMCITY_VERSION=2026.1", CI{Kind: Generic, Trigger: Branch}},
		{
			"jenkins change", nil, "JENKINS_URL=https://j.example/ CHANGE_ID=7 CHANGE_TARGET=main CHANGE_BRANCH=main BRANCH_NAME=PR-7 DRYDOCK_PROTECTED_REFS=main",
			CI{Kind: Generic, Trigger: ChangeRequest, Ref: "main", Target: "main"},
		},
		{
			"jenkins tag", nil, "CI=true TAG_NAME=v1 BRANCH_NAME=v1 GIT_COMMIT=" + sha + " GIT_URL=https://u:tok@git.example/x BUILD_URL=https://j.example/job/1/",
			CI{Kind: Generic, Trigger: Tag, Ref: "v1", Revision: sha, ProjectURL: "https://git.example/x", JobURL: "https://j.example/job/1/", Invocation: "https://j.example/job/1/"},
		},

		{"gitlab protected branch", gitlab, "CI_PIPELINE_SOURCE=push CI_COMMIT_BRANCH=main CI_COMMIT_REF_NAME=main CI_COMMIT_REF_PROTECTED=true", with(gl, Branch, "main", true)},
		{"gitlab branch", gitlab, "CI_PIPELINE_SOURCE=push CI_COMMIT_BRANCH=x CI_COMMIT_REF_NAME=x CI_COMMIT_REF_PROTECTED=false DRYDOCK_PROTECTED_REFS=x", with(gl, Branch, "x", false)},
		{"gitlab tag", gitlab, "CI_PIPELINE_SOURCE=push CI_COMMIT_TAG=v1 CI_COMMIT_REF_NAME=v1 CI_COMMIT_REF_PROTECTED=true", with(gl, Tag, "v1", true)},
		{"gitlab schedule", gitlab, "CI_PIPELINE_SOURCE=schedule CI_COMMIT_BRANCH=main CI_COMMIT_REF_NAME=main CI_COMMIT_REF_PROTECTED=true", with(gl, Schedule, "main", true)},
		{
			"gitlab merge request from a protected branch", gitlab,
			"CI_PIPELINE_SOURCE=merge_request_event CI_MERGE_REQUEST_IID=12 CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=rel CI_COMMIT_REF_NAME=rel CI_MERGE_REQUEST_TARGET_BRANCH_NAME=main CI_MERGE_REQUEST_DIFF_BASE_SHA=abc CI_COMMIT_REF_PROTECTED=true",
			with(gl, ChangeRequest, "rel", false, "main", "abc"),
		},
		{
			"gitlab child pipeline of a merge request", gitlab,
			"CI_PIPELINE_SOURCE=parent_pipeline CI_MERGE_REQUEST_IID=12 CI_COMMIT_REF_NAME=x CI_MERGE_REQUEST_TARGET_BRANCH_NAME=main",
			with(gl, ChangeRequest, "x", false, "main"),
		},
		{
			"gitlab external pull request", gitlab,
			"CI_PIPELINE_SOURCE=external_pull_request_event CI_EXTERNAL_PULL_REQUEST_IID=3 CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME=y CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME=main",
			with(gl, ChangeRequest, "y", false, "main"),
		},

		{"azure branch, nothing said about protection", azure, "BUILD_REASON=IndividualCI BUILD_SOURCEBRANCH=refs/heads/main", with(az, Branch, "main", false)},
		{"azure protected branch", azure, "BUILD_REASON=IndividualCI BUILD_SOURCEBRANCH=refs/heads/release/1/2 DRYDOCK_PROTECTED_REFS=main,release/*", with(az, Branch, "release/1/2", true)},
		{"azure branch that only looks protected", azure, "BUILD_REASON=Manual BUILD_SOURCEBRANCH=refs/heads/feature/main DRYDOCK_PROTECTED_REFS=main", with(az, Branch, "feature/main", false)},
		{"azure tag", azure, "BUILD_REASON=IndividualCI BUILD_SOURCEBRANCH=refs/tags/v1", with(az, Tag, "v1", false)},
		{"azure schedule", azure, "BUILD_REASON=Schedule BUILD_SOURCEBRANCH=refs/heads/main DRYDOCK_PROTECTED_REFS=refs/heads/main", with(az, Schedule, "main", true)},
		{
			"azure pull request", azure,
			"BUILD_REASON=PullRequest BUILD_SOURCEBRANCH=refs/pull/5/merge SYSTEM_PULLREQUEST_PULLREQUESTID=5 SYSTEM_PULLREQUEST_SOURCEBRANCH=refs/heads/main SYSTEM_PULLREQUEST_TARGETBRANCH=refs/heads/main DRYDOCK_PROTECTED_REFS=main",
			with(az, ChangeRequest, "main", false, "main"),
		},
		{
			"azure undefined macro", azure,
			"BUILD_REASON=IndividualCI BUILD_SOURCEBRANCH=refs/heads/x SYSTEM_PULLREQUEST_PULLREQUESTID=$(System.PullRequest.PullRequestId) SYSTEM_PULLREQUEST_TARGETBRANCH=$(System.PullRequest.TargetBranch)",
			with(az, Branch, "x", false),
		},

		{"github push", github, "GITHUB_EVENT_NAME=push GITHUB_REF_NAME=main GITHUB_REF_TYPE=branch GITHUB_REF_PROTECTED=true", with(gh, Branch, "main", true)},
		{"github tag", github, "GITHUB_EVENT_NAME=push GITHUB_REF_NAME=v1 GITHUB_REF_TYPE=tag", with(gh, Tag, "v1", false)},
		{"github schedule", github, "GITHUB_EVENT_NAME=schedule GITHUB_REF_NAME=main GITHUB_REF_PROTECTED=true", with(gh, Schedule, "main", true)},
		{"github pull request", github, "GITHUB_EVENT_NAME=pull_request_target GITHUB_HEAD_REF=x GITHUB_BASE_REF=main GITHUB_REF_NAME=main GITHUB_REF_PROTECTED=true", with(gh, ChangeRequest, "x", false, "main")},
		{"github merge queue", github, "GITHUB_EVENT_NAME=merge_group GITHUB_REF_NAME=gh-readonly-queue/main/pr-1 GITHUB_REF_PROTECTED=true", with(gh, ChangeRequest, "gh-readonly-queue/main/pr-1", false)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			environ := append(append([]string{}, tt.base...), strings.Fields(tt.env)...)
			got := Detect(environ)
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if got.InCI() != (tt.want.Kind != None) {
				t.Errorf("InCI() = %v", got.InCI())
			}
		})
	}
}

func TestLastValueOfAVariableWins(t *testing.T) {
	got := Detect([]string{"CI=true", "CI=false"})
	if got.Kind != None {
		t.Errorf("kind %s", got.Kind)
	}
}

func TestLoggingCommands(t *testing.T) {
	now := func() time.Time { return time.Unix(1795306309, 0) }
	tests := []struct {
		kind  Kind
		group string
		issue string
	}{
		{None, "", ""},
		{Generic, "", ""},
		{
			GitLab, "\x1b[0Ksection_start:1795306309:build_app_1[collapsed=true]\r\x1b[0KBuild  ##x\n" +
				"\x1b[0Ksection_end:1795306309:build_app_1\r\x1b[0K\n", "",
		},
		{
			Azure, "##[group]Build  ##x\n##[endgroup]\n",
			"##vso[task.logissue type=error;sourcepath=a%3Bb%5D/x.yaml;linenumber=7]100%AZP25 wrong second\n",
		},
		{GitHub, "::group::Build  ##x\n::endgroup::\n", "::error file=a;b]/x.yaml,line=7::100%25 wrong second\n"},
	}
	for _, tt := range tests {
		t.Run(string(tt.kind), func(t *testing.T) {
			var b bytes.Buffer
			CI{Kind: tt.kind}.Group(&b, "build app/1", "Build \n ##x", now)()
			if b.String() != strings.ReplaceAll(tt.group, "Build  ##x", "Build   ##x") {
				t.Errorf("group %q", b.String())
			}
			b.Reset()
			CI{Kind: tt.kind}.Issue(&b, Failure, "a;b]/x.yaml:7", "100% wrong\nsecond")
			if b.String() != tt.issue {
				t.Errorf("issue %q, want %q", b.String(), tt.issue)
			}
		})
	}
}

func TestOnlyFileAndLineIsAPlace(t *testing.T) {
	for place, want := range map[string]string{
		"catalog/x.yaml:3": "catalog/x.yaml|3", "": "|", "catalog/x.yaml": "|", "https://m.example:443": "|",
		"r.example/x@sha256:12": "|", "m.example:x": "|", ":4": "|",
	} {
		f, l := splitPlace(place)
		if f+"|"+l != want {
			t.Errorf("%q: %q %q", place, f, l)
		}
	}
}
