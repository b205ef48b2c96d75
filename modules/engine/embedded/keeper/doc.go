// Package keeper lets an engine work where only one user id is mapped. The
// engine and its steps run under a filter that hands over every system call in
// which owners play a part; the keeper, their parent, pretends that the owner
// of a file is what it was changed to, and that a process is who it became.
//
// Owners are recorded on the files: in an extended attribute of files and
// directories, in the access time of links and special files, which cannot
// have one. Both follow a file through renames, hard links and overlay's
// copies. Whatever looks at a file under the keeper, steps and engine alike,
// sees the recorded owner and not the record, so layers get the right owners
// by the ordinary way. Who a process is, is kept in one of its resource
// limits, which the kernel hands down to what it starts.
//
// What is not pretended: a process that became somebody may still read, write
// and remove what the one real user may.
package keeper
