# What a CNI plugin's program does on x86-64, without a library: hand the call to the node's agent, or start Python when there is none.
# `table` is what `native.executable` appends: addresses and lengths. System calls by number: rax; arguments: rdi, rsi, rdx.
        .intel_syntax noprefix
        .globl _start
_start: mov     r12, [rsp]              # argc
        lea     r12, [rsp + r12*8 + 16] # envp: behind argc, the arguments and a zero
        mov     r14, [r12]              # the environment's first byte: its strings lie one behind the other
        mov     r15, r14                # and the byte behind its last
        xor     r13d, r13d              # the value of CNI_NETNS
        xor     ebx, ebx                # 1: there is a CNI_COMMAND, 2: it is VERSION
        mov     rbp, r12
scan:   mov     r8, [rbp]
        test    r8, r8
        jz      known
        add     rbp, 8
        mov     rsi, r8
        lea     rdi, [rip + netns]
        mov     ecx, 10
        repe    cmpsb
        cmove   r13, rsi
        mov     rsi, r8
        lea     rdi, [rip + command]
        mov     ecx, 12
        repe    cmpsb
        jne     tail
        mov     ebx, 1
        mov     ecx, 8
        repe    cmpsb
        jne     tail
        mov     ebx, 2
tail:   mov     rsi, r8
char:   lodsb
        test    al, al
        jnz     char
        mov     r15, rsi
        jmp     scan

known:  test    ebx, ebx
        jz      alone
        sub     rsp, 4096 + 128         # what follows works there: 128 bytes of structures, a buffer
        cmp     ebx, 2
        je      version
        mov     eax, 41                 # socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
        mov     edi, 1
        mov     esi, 0x80001
        xor     edx, edx
        syscall
        test    eax, eax
        js      alone
        mov     ebp, eax
        mov     eax, 42                 # connect(agent)
        mov     edi, ebp
        mov     rsi, [rip + table]
        mov     rdx, [rip + table + 8]
        syscall
        test    eax, eax
        js      alone
        mov     eax, 2                  # open(our network namespace, O_CLOEXEC)
        lea     rdi, [rip + own]
        mov     esi, 0x80000
        xor     edx, edx
        syscall
        test    eax, eax
        js      alone
        mov     dword ptr [rsp + 104], 0        # descriptors: standard input,
        mov     [rsp + 108], eax                # our namespace,
        mov     ebx, 24                 # length of a header with two
        test    r13, r13
        jz      send
        mov     eax, 2                  # open(the container's namespace, O_CLOEXEC | O_NONBLOCK)
        mov     rdi, r13
        mov     esi, 0x80800            # it may be anything: a pipe would make us wait
        xor     edx, edx
        syscall
        test    eax, eax
        js      send
        mov     [rsp + 112], eax                # the container's
        mov     ebx, 28
send:   mov     [rsp + 88], rbx         # struct cmsghdr: length, SOL_SOCKET, SCM_RIGHTS
        mov     rax, 0x100000001
        mov     [rsp + 96], rax
        mov     rax, [rip + table + 16] # struct iovec: the plugin's name, the environment
        mov     [rsp + 56], rax
        mov     rax, [rip + table + 24]
        mov     [rsp + 64], rax
        mov     [rsp + 72], r14
        sub     r15, r14
        mov     [rsp + 80], r15
        xor     eax, eax                # struct msghdr
        mov     [rsp], rax
        mov     [rsp + 8], rax
        lea     rax, [rsp + 56]
        mov     [rsp + 16], rax
        mov     qword ptr [rsp + 24], 2
        lea     rax, [rsp + 88]
        mov     [rsp + 32], rax
        mov     [rsp + 40], rbx
        mov     qword ptr [rsp + 48], 0
        mov     eax, 46                 # sendmsg(agent, …, MSG_NOSIGNAL)
        mov     edi, ebp
        mov     rsi, rsp
        mov     edx, 0x4000
        syscall
        mov     eax, 48                 # shutdown(agent, SHUT_WR)
        mov     edi, ebp
        mov     esi, 1
        syscall
        xor     r13d, r13d              # the answer's first byte
answer: xor     eax, eax                # read(agent)
        mov     edi, ebp
        lea     rsi, [rsp + 128]
        mov     edx, 4096
        syscall
        test    rax, rax
        jle     over
        lea     rsi, [rsp + 128]
        mov     rdx, rax
        test    r13d, r13d
        jnz     print
        movzx   r13d, byte ptr [rsi]
        cmp     r13d, '-'
        je      alone
        inc     rsi
        dec     rdx
print:  call    say
        jmp     answer
over:   test    r13d, r13d
        jz      died
        lea     edi, [r13 - '0']
leave:  mov     eax, 231                # exit_group
        syscall

version:
        mov     rsi, [rip + table + 32]
        mov     rdx, [rip + table + 40]
        call    say
        xor     edi, edi
        jmp     leave
died:   mov     rsi, [rip + table + 48]
        mov     rdx, [rip + table + 56]
        call    say
        mov     edi, 1
        jmp     leave
alone:  mov     eax, 59                 # execve(Python, …, the environment)
        mov     rdi, [rip + table + 64]
        mov     rsi, [rip + table + 72]
        mov     rdx, r12
        syscall
        mov     rsi, [rip + table + 80] # it is not there any more
        mov     rdx, [rip + table + 88]
        call    say
        mov     edi, 1
        jmp     leave

say:    test    rdx, rdx                # write all of it to standard output
        jle     said
        mov     eax, 1
        mov     edi, 1
        syscall
        test    rax, rax
        jle     said
        add     rsi, rax
        sub     rdx, rax
        jmp     say
said:   ret

netns:   .ascii "CNI_NETNS="
command: .ascii "CNI_COMMAND=VERSION\0"
own:     .ascii "/proc/self/ns/net\0"
        .balign 8
table:
