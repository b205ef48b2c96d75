package executor

// again is machine code that executes the program behind /proc/self/exe with
// the arguments and the environment that it was itself executed with.
func again() code {
	return code{machine: 62, text: []byte{
		0x48, 0x89, 0xe3, //                         mov  %rsp, %rbx
		0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, // sub  $4096, %rsp
		0x48, 0x8d, 0x3d, 0x3a, 0x00, 0x00, 0x00, // lea  path(%rip), %rdi
		0x48, 0x89, 0xe6, //                         mov  %rsp, %rsi
		0xba, 0xff, 0x0f, 0x00, 0x00, //             mov  $4095, %edx
		0xb8, 0x59, 0x00, 0x00, 0x00, //             mov  $89, %eax
		0x0f, 0x05, //                               syscall, readlink
		0x48, 0x85, 0xc0, //                         test %rax, %rax
		0x7e, 0x1a, //                               jle  failed
		0xc6, 0x04, 0x04, 0x00, //                   movb $0, (%rsp,%rax)
		0x48, 0x89, 0xe7, //                         mov  %rsp, %rdi
		0x48, 0x8d, 0x73, 0x08, //                   lea  8(%rbx), %rsi
		0x48, 0x8b, 0x03, //                         mov  (%rbx), %rax
		0x48, 0x8d, 0x54, 0xc3, 0x10, //             lea  16(%rbx,%rax,8), %rdx
		0xb8, 0x3b, 0x00, 0x00, 0x00, //             mov  $59, %eax
		0x0f, 0x05, //                               syscall, execve
		0xbf, 0x7e, 0x00, 0x00, 0x00, //     failed: mov  $126, %edi
		0xb8, 0xe7, 0x00, 0x00, 0x00, //             mov  $231, %eax
		0x0f, 0x05, //                               syscall, exit_group
		'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'e', 'x', 'e', 0,
	}}
}
