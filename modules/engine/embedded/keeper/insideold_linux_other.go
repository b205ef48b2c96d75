//go:build linux && !amd64

package keeper

func oldModeHandlers() map[int]handler { return nil }

func oldPathHandlers() map[int]handler { return nil }
