package main

import "context"

func runTest(context.Context, []string, streams) error   { return usage("todo") }
func runVulnDB(context.Context, []string, streams) error { return usage("todo") }
