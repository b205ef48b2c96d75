// Package trees keeps layers where nothing can be mounted. It is a containerd
// snapshotter, with the differ and applier that belong to it, on plain
// directories.
//
// A committed snapshot is a delta: the files in which it differs from its
// parent and a record of what it removed. Deltas never change. A step works on
// a tree, a whole root file system made of copies. When its snapshot is
// committed, the tree is compared with what is known of it (inode, times, size,
// mode, owner) and what changed is linked into the delta; the tree itself is
// kept and serves the next step, which needs a copy of the changed files only:
// no tree that a step writes to shares an inode with a delta. A tree nobody
// waits for is turned into that of another snapshot by replacing what differs.
//
// Views, which only the engine reads, are directories of hard links to deltas.
//
// Nothing is synced to disk file by file. A process killed at any moment
// leaves deltas that are whole, because a snapshot is in the database only
// after its delta is complete, and trees that can be made again.
package trees
