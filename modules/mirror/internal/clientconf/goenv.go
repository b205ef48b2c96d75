package clientconf

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// GoSetting finds a go command setting (GOPROXY, GOSUMDB) as the go command
// does: environment, the user's go/env, $GOROOT/go.env, and what the command
// itself answers when there is one. source says where; both are empty when it
// is set nowhere.
func GoSetting(ctx context.Context, env Environ, home, envFile, name string) (value, source string) {
	if v := env[name]; v != "" {
		return v, name
	}
	for _, file := range goEnvFiles(env, home, envFile) {
		text, err := readOptional(file)
		if err != nil {
			continue
		}
		if v := parseGoEnv(text)[name]; v != "" {
			return v, file
		}
	}
	if gocmd := env.LookPath("go"); gocmd != "" {
		if v := ask(ctx, env, gocmd, "env", name); v != "" {
			return v, "go env " + name
		}
	}
	return "", ""
}

// goEnvFiles are the files the go command reads, the stronger first.
func goEnvFiles(env Environ, home, envFile string) []string {
	var files []string
	switch {
	case envFile != "":
		files = append(files, envFile)
	case env["GOENV"] == "off":
	case env["GOENV"] != "":
		files = append(files, env["GOENV"])
	default:
		if dir := userConfigDir(env, home); dir != "" {
			files = append(files, filepath.Join(dir, "go", "env"))
		}
	}
	root := env["GOROOT"]
	if gocmd := env.LookPath("go"); root == "" && gocmd != "" {
		if real, err := filepath.EvalSymlinks(gocmd); err == nil {
			root = filepath.Dir(filepath.Dir(real))
		}
	}
	if root != "" {
		files = append(files, filepath.Join(root, "go.env"))
	}
	return files
}

// userConfigDir is os.UserConfigDir of the environment handed in.
func userConfigDir(env Environ, home string) string {
	switch runtime.GOOS {
	case "windows":
		return env["AppData"]
	case "darwin":
		return filepath.Join(home, "Library", "Application Support")
	}
	if d := env["XDG_CONFIG_HOME"]; d != "" {
		return d
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config")
}

func parseGoEnv(text string) map[string]string {
	out := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if k, v, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			out[strings.TrimSpace(k)] = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return out
}

// ask runs an ordinary client for one setting: bounded, away from any project,
// never downloading another toolchain.
func ask(ctx context.Context, env Environ, program string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	if runtime.GOOS == "windows" {
		cmd.Dir = filepath.VolumeName(program) + `\`
	}
	for k, v := range env {
		if k != "GOTOOLCHAIN" && k != "GOWORK" && k != "GOFLAGS" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// GoProxy is one element of a GOPROXY list.
type GoProxy struct {
	URL      string
	AnyError bool // the next one is asked after any error, not after "not found" alone
}

// ParseGoProxy reads a GOPROXY list up to direct or off, which are never
// followed.
func ParseGoProxy(list string) (proxies []GoProxy, notes []string) {
	for list != "" {
		i := strings.IndexAny(list, ",|")
		one, sep := list, byte(',')
		if i >= 0 {
			one, sep, list = list[:i], list[i], list[i+1:]
		} else {
			list = ""
		}
		switch one = strings.TrimSpace(one); one {
		case "":
			continue
		case "direct", "off":
			return proxies, append(notes, "GOPROXY: "+one+" is never followed")
		}
		proxies = append(proxies, GoProxy{URL: one, AnyError: sep == '|'})
	}
	return proxies, notes
}
