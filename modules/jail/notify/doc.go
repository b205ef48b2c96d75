// Package notify answers system calls for other processes (seccomp user
// notification, seccomp_unotify(2)): one side installs a filter and gets a
// listener, the other receives the calls the filter hands over, looks at the
// caller's memory and says how each ends.
//
// It imports little, so that a step's init can use it too. Filters are
// compiled by package jail.
package notify
