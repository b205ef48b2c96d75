package engine

import (
	"context"
	"fmt"
	"strconv"

	"dagger.io/dagger"

	"drydock/modules/artifact"
)

// The variables by which the environment names a Dagger Engine.
const (
	envSessionPort  = "DAGGER_SESSION_PORT"
	envSessionToken = "DAGGER_SESSION_TOKEN"
	envRunnerHost   = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
	envCLIBin       = "_EXPERIMENTAL_DAGGER_CLI_BIN"
)

// choose turns Config.Kind and the environment into KindEmbedded or KindDagger.
func choose(cfg Config) (string, error) {
	given := environment(cfg.Environ, envSessionPort) != "" || environment(cfg.Environ, envRunnerHost) != ""
	switch cfg.Kind {
	case KindEmbedded:
		return KindEmbedded, nil
	case KindDagger:
		return KindDagger, checkDagger(cfg.Environ)
	case "", KindAuto:
		if given {
			return KindDagger, checkDagger(cfg.Environ)
		}
		return KindEmbedded, nil
	}
	return "", &artifact.Error{
		Kind: artifact.KindUsage, Op: "choosing the engine", Place: cfg.Kind,
		Message: "no such kind of engine", Remedy: "use auto, embedded or dagger",
	}
}

// checkDagger refuses an environment with which the SDK would go and download
// a command line client, or fail much later.
func checkDagger(environ []string) error {
	if port := environment(environ, envSessionPort); port != "" {
		return checkSession(port, environment(environ, envSessionToken))
	}
	bin, host := environment(environ, envCLIBin), environment(environ, envRunnerHost)
	switch {
	case bin == "" && host != "":
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "connecting to a Dagger Engine", Place: envRunnerHost,
			Message: envRunnerHost + " is set without " + envCLIBin + ", and no client is downloaded",
			Remedy:  "set " + envCLIBin + " to the dagger program of version " + sdkVersion + ", or unset " + envRunnerHost,
		}
	case bin == "":
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "connecting to a Dagger Engine",
			Message: "the environment names none",
			Remedy: "run under `dagger run`, or set " + envRunnerHost + " and " + envCLIBin +
				", or use the embedded engine (--engine embedded)",
		}
	}
	return nil
}

func checkSession(port, token string) error {
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "connecting to a Dagger Engine", Place: envSessionPort,
			Message: fmt.Sprintf("%q is not a port", port), Remedy: "run under `dagger run`, or unset " + envSessionPort,
		}
	}
	if token == "" {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "connecting to a Dagger Engine", Place: envSessionToken,
			Message: envSessionPort + " is set without " + envSessionToken,
			Remedy:  "set both, as `dagger run` does, or unset " + envSessionPort,
		}
	}
	return nil
}

// sdkVersion is the version of the Dagger API this program speaks.
const sdkVersion = "v0.21.7"

// connectDagger connects to the Dagger Engine the environment names. A session
// is dialled by our own connection, so that it comes from cfg.Environ; a runner
// needs the SDK to start the command line client.
func connectDagger(ctx context.Context, cfg Config) (*Engine, error) {
	opts := []dagger.ClientOpt{dagger.WithLogOutput(cfg.Log)}
	if port := environment(cfg.Environ, envSessionPort); port != "" {
		opts = append(opts, dagger.WithConn(sessionConn(port, environment(cfg.Environ, envSessionToken))))
	} else if cfg.Workdir != "" {
		opts = append(opts, dagger.WithWorkdir(cfg.Workdir))
	}
	client, err := dagger.Connect(ctx, opts...)
	if err != nil {
		return nil, daggerFault(err)
	}
	version, err := client.Version(ctx)
	if err != nil {
		_ = client.Close()
		return nil, daggerFault(err)
	}
	return &Engine{
		Client: client, Kind: KindDagger, Version: version, images: cfg.Images,
		close: client.Close,
	}, nil
}

func daggerFault(err error) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "connecting to the Dagger Engine",
		Remedy: "check that the engine " + envRunnerHost + " or " + envSessionPort +
			" names is running, or use the embedded engine (--engine embedded)",
		Err: err,
	}
}
