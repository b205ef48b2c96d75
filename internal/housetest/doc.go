// Package housetest holds the rules of the house as tests: what may import
// what, how long a function may be, what the CI files may say. It has no code
// of its own to import. Each rule is a pure function over a set of files and is
// shown to fail once, on a small tree under testdata.
package housetest
