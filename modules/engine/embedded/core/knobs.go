package core

// The names of what can be missing. They are part of doctor's JSON.
const (
	knobSysAdmin       = "CAP_SYS_ADMIN"
	knobRoot           = "root"
	knobCapabilities   = "capabilities"
	knobSeccomp        = "seccomp profile"
	knobMaskedProc     = "masked /proc"
	knobAppArmor       = "AppArmor profile"
	knobAppArmorUserns = "kernel.apparmor_restrict_unprivileged_userns"
	knobMaxUserns      = "user.max_user_namespaces"
	knobUsernsClone    = "kernel.unprivileged_userns_clone"
	knobUserns         = "user namespaces"
	knobChrooted       = "chroot"
	knobNoNewPrivs     = "no_new_privs"
	knobUidmap         = "newuidmap"
	knobUidmapSetuid   = "setuid bit of newuidmap"
	knobUidmapCaps     = "file capabilities of newuidmap"
	knobSubIDs         = "subordinate ids"
	knobNotify         = "seccomp notification"
	knobMknod          = "device nodes"
	knobLandlock       = "landlock"
	knobFilter         = "seccomp filter"
	knobOpenat2        = "openat2"
	knobUserXattr      = "user attributes"
	knobPtrace         = "ptrace"
	knobNoExec         = "noexec"
	knobVersion        = "this version"
)

// knob is what turns on what is missing.
type knob struct {
	remedy    string
	platforms map[string]string
}

// everywhere is a setting of the machine, whatever starts the container there.
func everywhere(setting string) knob {
	return knob{remedy: "have root of the machine run: " + setting, platforms: map[string]string{
		PlatformGitLabDocker:     "on the machine of the docker daemon: " + setting,
		PlatformGitLabKubernetes: "on the nodes: " + setting,
		PlatformAzure:            "on the agent's machine: " + setting,
		PlatformDocker:           "on the docker host: " + setting,
		PlatformPodman:           "on the podman host: " + setting,
	}}
}

// knobs says how each is turned on. Sources: GitLab Runner's advanced
// configuration and Kubernetes executor, Azure's container jobs and the
// agent's ContainerOperationProvider, docker-run(1), podman-run(1),
// user_namespaces(7), seccomp(2).
func knobs(name string) knob {
	for _, list := range []map[string]knob{containerKnobs(), namespaceKnobs(), kernelKnobs()} {
		if k, ok := list[name]; ok {
			return k
		}
	}
	return knob{}
}

// namespaceKnobs are what a container withholds from user namespaces.
func namespaceKnobs() map[string]knob {
	return map[string]knob{
		knobSeccomp: {
			remedy: "start this container with a seccomp profile that allows unshare, clone and mount",
			platforms: map[string]string{
				PlatformGitLabDocker:     `[runners.docker] security_opt = ["seccomp:unconfined"]`,
				PlatformGitLabKubernetes: `build_container_security_context.seccomp_profile: type = "Unconfined"`,
				PlatformAzure:            "options: --security-opt seccomp=unconfined",
				PlatformDocker:           "--security-opt seccomp=unconfined",
				PlatformPodman:           "--security-opt seccomp=unconfined",
			},
		},
		knobMaskedProc: {
			remedy: "start this container with all of /proc visible: the kernel gives a namespace no fresh /proc where parts are covered",
			platforms: map[string]string{
				PlatformGitLabDocker: "not to be had: the runner has no systempaths",
				PlatformGitLabKubernetes: `build_container_security_context: proc_mount = "Unmasked", with [[runners.kubernetes.pod_spec]] patch = "hostUsers: false" ` +
					`(FF_USE_ADVANCED_POD_SPEC_CONFIGURATION; Kubernetes 1.33 or newer)`,
				PlatformAzure:  "options: --security-opt systempaths=unconfined",
				PlatformDocker: "--security-opt systempaths=unconfined",
				PlatformPodman: "--security-opt unmask=ALL",
			},
		},
		knobAppArmor: {
			remedy: "start this container without that AppArmor profile: it refuses mount",
			platforms: map[string]string{
				PlatformGitLabDocker:     `[runners.docker] security_opt = ["apparmor:unconfined"]`,
				PlatformGitLabKubernetes: `build_container_security_context.app_armor_profile: type = "Unconfined"`,
				PlatformAzure:            "options: --security-opt apparmor=unconfined",
				PlatformDocker:           "--security-opt apparmor=unconfined",
				PlatformPodman:           "--security-opt apparmor=unconfined",
			},
		},
		knobNoNewPrivs: {
			remedy: "let this process gain privileges by exec: with no_new_privs newuidmap is not setuid",
			platforms: map[string]string{
				PlatformGitLabDocker:     `[runners.docker] take no-new-privileges out of security_opt`,
				PlatformGitLabKubernetes: `[runners.kubernetes] allow_privilege_escalation = true`,
				PlatformAzure:            "take no-new-privileges out of options",
				PlatformDocker:           "without --security-opt no-new-privileges",
				PlatformPodman:           "without --security-opt no-new-privileges",
			},
		},
		knobUidmap: {remedy: "install package uidmap (shadow-utils on other systems) in the job's image"},
		knobUidmapSetuid: {
			remedy: "have root run: chmod u+s $(command -v newuidmap newgidmap), on a file system that is not mounted nosuid (copied images lose the bit)",
		},
		knobUidmapCaps: {
			remedy: "in the job's image (package libcap2-bin): cd /usr/bin && chmod u-s newuidmap newgidmap && " +
				"setcap cap_setuid=ep newuidmap && setcap cap_setgid=ep newgidmap",
		},
		knobSubIDs: {
			remedy: "have root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER (a range nobody else has)",
		},
		knobSysAdmin: {remedy: "run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, where that is acceptable; user namespaces need neither"},
	}
}

// containerKnobs are what T2 needs of an ordinary container.
func containerKnobs() map[string]knob {
	return map[string]knob{
		knobRoot: {
			remedy: "run as root of this container (its default capabilities are enough)",
			platforms: map[string]string{
				PlatformGitLabDocker:     `.gitlab-ci.yml: image: {name: …, docker: {user: root}}, or [runners.docker] user = "root"`,
				PlatformGitLabKubernetes: "build_container_security_context: run_as_user = 0",
				PlatformAzure:            "the agent makes the job's user a member of sudo: install sudo in the image and start with `exec sudo -E`",
				PlatformDocker:           "--user 0",
				PlatformPodman:           "--user 0",
			},
		},
		knobCapabilities: {
			remedy: "give this container the capabilities docker gives by default",
			platforms: map[string]string{
				PlatformGitLabDocker:     "[runners.docker] take them out of cap_drop",
				PlatformGitLabKubernetes: "[runners.kubernetes] name them, without CAP_, in cap_add (CRI-O's defaults lack SYS_CHROOT and MKNOD)",
				PlatformAzure:            "take them out of --cap-drop in options",
				PlatformDocker:           "without --cap-drop",
				PlatformPodman:           "--cap-add=SYS_CHROOT,MKNOD (podman's defaults lack them)",
			},
		},
		knobMknod: {
			remedy: "let this container make device nodes in its state directory: no nodev there, and the device cgroup's default rules",
			platforms: map[string]string{
				PlatformGitLabDocker:     "keep the state directory (--cache) on a volume without nodev",
				PlatformGitLabKubernetes: "keep the state directory (--cache) on a volume without nodev, and hostUsers as it is",
				PlatformAzure:            "keep the state directory (--cache) on a volume without nodev",
				PlatformDocker:           "keep the state directory (--cache) off tmpfs and nodev volumes",
				PlatformPodman:           "as real root: rootless podman forbids device nodes (there T1 works)",
			},
		},
		knobNotify: {
			remedy: "use a Linux of 5.14 or newer, and start this container under no other supervisor of system calls: a process has one seccomp listener",
			platforms: map[string]string{
				PlatformDocker: "with the runc runtime and no SCMP_ACT_NOTIFY in the profile",
				PlatformPodman: "with no SCMP_ACT_NOTIFY in the profile",
			},
		},
	}
}

// kernelKnobs are the machine's.
func kernelKnobs() map[string]knob {
	return map[string]knob{
		knobMaxUserns:      everywhere("sysctl user.max_user_namespaces=65536"),
		knobUsernsClone:    everywhere("sysctl kernel.unprivileged_userns_clone=1"),
		knobAppArmorUserns: everywhere("sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
		knobUserns:         {remedy: "use a kernel with CONFIG_USER_NS, and allow user namespaces on it"},
		knobChrooted:       {remedy: "run outside chroot: the kernel gives a process in one no user namespace"},
		knobLandlock:       {remedy: "use a Linux of 5.13 or newer with landlock in its lsm= list, and a seccomp profile that knows it"},
		knobFilter:         {remedy: "use a kernel with CONFIG_SECCOMP_FILTER"},
		knobUserXattr:      {remedy: "keep the state directory (--cache) on a file system with user attributes: ext4, xfs, btrfs, or tmpfs of Linux 6.6"},
		knobOpenat2:        {remedy: "use a Linux of 5.6 or newer, and a seccomp profile that knows openat2"},
		knobPtrace: {remedy: "let processes trace their children: kernel.yama.ptrace_scope of 0 or 1, and a seccomp profile that allows ptrace, " +
			"as docker's does since Linux 4.8"},
		knobNoExec:  {remedy: "keep the state directory (--cache) on a file system that is not mounted noexec"},
		knobVersion: {remedy: "use a version of drydock that has it"},
	}
}

// missing is what a knob's absence means.
func missing(name, detail string) Missing {
	k := knobs(name)
	return Missing{Name: name, Detail: detail, Remedy: k.remedy, Platforms: k.platforms}
}

// merge adds what is not there by name.
func merge(list []Missing, more ...Missing) []Missing {
	for _, m := range more {
		have := false
		for _, h := range list {
			have = have || h.Name == m.Name
		}
		if !have {
			list = append(list, m)
		}
	}
	return list
}
