package initbin

import _ "embed"

//go:embed init_linux_arm64.bin
var program []byte
