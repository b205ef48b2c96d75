// Package statictest makes a test program static: one that is executed in a
// root of its own, where no loader and no library is.
package statictest
