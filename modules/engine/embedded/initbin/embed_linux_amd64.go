package initbin

import _ "embed"

//go:embed init_linux_amd64.bin
var program []byte
