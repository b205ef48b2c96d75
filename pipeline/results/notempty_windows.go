package results

import (
	"errors"
	"io/fs"
)

// isNotEmpty: Windows refuses to rename onto an existing folder as "access
// denied".
func isNotEmpty(err error) bool { return errors.Is(err, fs.ErrPermission) }
