# Two processes that map memory in known ways and then run in user mode for ever, each on a CPU of its
# own. Their parent prints what the kernel says of them (/proc/PID/maps and pagemap) and sleeps.
#
# Perl, because Debian's perl-base has syscall() on every architecture: no compiler is needed.
$| = 1;

# Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
my ($machine) = (`/bin/busybox uname -m` =~ /(\S+)/);
my %n = $machine eq "x86_64"
    ? (read => 0, write => 1, mmap => 9, mprotect => 10, munmap => 11, madvise => 28,
       sched_setaffinity => 203, pkey_mprotect => 329, pkey_alloc => 330)
    : (read => 63, write => 64, mmap => 222, mprotect => 226, munmap => 215, madvise => 233,
       sched_setaffinity => 122, pkey_mprotect => 288, pkey_alloc => 289);
my ($NONE, $READ, $WRITE, $EXEC) = (0, 1, 2, 4);
# include/uapi/asm-generic/mman-common.h, mman.h
my ($SHARED, $PRIVATE, $ANON, $HUGETLB, $NORESERVE) = (1, 2, 0x20, 0x40000, 0x4000);
my $HUGE_SHIFT = 26;
my ($MADV_HUGEPAGE, $MADV_NOHUGEPAGE) = (14, 15);

my ($page) = ($machine eq "x86_64" || $machine eq "riscv64") ? 4096 : page_size();
sub page_size {    # AT_PAGESZ (6) of the auxiliary vector
    open my $f, "<:raw", "/proc/self/auxv" or die;
    local $/;
    my @words = unpack "Q*", <$f>;
    my %vector = @words;
    return $vector{6};
}

pipe(my $out, my $in) or die "pipe: $!";
open my $null, ">", "/dev/null" or die;
binmode $_ for $out, $in;
my ($out_fd, $in_fd) = (fileno $out, fileno $in);

sub mmap {
    my ($length, $prot, $flags, $fd, $offset, $hint) = @_;
    my $at = syscall($n{mmap}, ($hint // 0) + 0, $length + 0, $prot + 0, $flags + 0,
                     ($fd // -1) + 0, ($offset // 0) + 0);
    if ($at == -1) { print "REFUSED mmap $length: $!\n"; return undef }
    return $at;
}

sub protect {
    my ($at, $length, $prot) = @_;
    syscall($n{mprotect}, $at + 0, $length + 0, $prot + 0) == 0 or print "REFUSED mprotect: $!\n";
}

# The page at an address gets 16 bytes: a mark and its own address.
sub touch {
    my ($at) = @_;
    syswrite($in, pack("A8Q", "ptcore", $at)) == 16 or die;
    syscall($n{read}, $out_fd + 0, $at + 0, 16) == 16 or print "REFUSED touch $at: $!\n";
}

sub look {    # read a byte there
    my ($at) = @_;
    syscall($n{write}, $in_fd + 0, $at + 0, 1) == 1 or do { print "REFUSED look: $!\n"; return };
    sysread $out, my $byte, 1;
}

sub say_area { printf "AREA %d %s %x %x\n", $$, @_ }

sub areas {
    my ($which, $shared) = @_;
    my $file;
    my $at = mmap(16 * $page, $READ | $WRITE, $PRIVATE | $ANON);
    touch($at + $_ * $page) for 0 .. 4, 6, 9 .. 15;
    say_area("small", $at, 16 * $page);

    $at = mmap(8 * $page, $READ | $WRITE, $PRIVATE | $ANON);
    touch($at + $_ * $page) for 0 .. 7;
    protect($at + 2 * $page, 2 * $page, $NONE);     # pages that exist and that nobody may touch
    protect($at + 4 * $page, 2 * $page, $READ);
    protect($at + 6 * $page, $page, $READ | $EXEC);
    protect($at + 7 * $page, $page, $READ | $WRITE | $EXEC);
    say_area("protected", $at, 8 * $page);

    $at = mmap(4 * $page, $NONE, $PRIVATE | $ANON);
    say_area("guard", $at, 4 * $page);

    $at = mmap(8 * $page, $READ | $WRITE, $PRIVATE | $ANON);
    look($at + $_ * $page) for 0 .. 5;              # the zero page, six times
    touch($at + 6 * $page);
    say_area("zero", $at, 8 * $page);

    open $file, "<:raw", "/bin/busybox" or die;
    $at = mmap(32 * $page, $READ | $EXEC, $PRIVATE, fileno $file);
    look($at + $_ * $page) for 0 .. 3, 8, 20;
    say_area("file", $at, 32 * $page);
    $at = mmap(8 * $page, $READ | $WRITE, $PRIVATE, fileno $file, 4 * $page);
    look($at + $_ * $page) for 0 .. 3;
    touch($at + $_ * $page) for 1, 3;               # two are copied, two are the file's
    say_area("copied", $at, 8 * $page);

    touch($shared + $_ * $page) for $which .. $which + 3;
    look($shared + $_ * $page) for 0 .. 7;
    say_area("shared", $shared, 8 * $page);

    huge($which);
    high();
    key() if $machine eq "x86_64";
}

sub huge {
    my ($which) = @_;
    my $large = $page / 8 * $page;                  # what one table of pages maps
    my $at = mmap(3 * $large, $READ | $WRITE, $PRIVATE | $ANON | $NORESERVE);
    my $even = $at + (-$at % $large);
    syscall($n{madvise}, $even + 0, 2 * $large, $MADV_HUGEPAGE) == 0 or print "REFUSED madvise: $!\n";
    touch($even);
    touch($even + $large);
    protect($even + $large + 3 * $page, $page, $READ) if $which == 0;    # splits the second
    say_area("thp", $even, 2 * $large);
    opendir my $sizes, "/sys/kernel/mm/hugepages" or die;
    for my $kib (sort { $a <=> $b } map { /(\d+)kB/ } readdir $sizes) {
        open my $f, "<", "/sys/kernel/mm/hugepages/hugepages-${kib}kB/free_hugepages" or die;
        next if <$f> < 1;
        my $lg2 = 10;
        $lg2++ while 1024 << ($lg2 - 10) < 1024 * $kib;
        my $at = mmap(1024 * $kib, $READ | $WRITE, $PRIVATE | $ANON | $HUGETLB | $lg2 << $HUGE_SHIFT) // next;
        touch($at);
        say_area("hugetlb-${kib}k", $at, 1024 * $kib);
    }
}

# Addresses beyond the customary 47 bits are given to those who ask for them alone.
sub high {
    my $at = mmap(4 * $page, $READ | $WRITE, $PRIVATE | $ANON, -1, 0, 0x00fe_dcba_9876_0000);
    touch($at + $_ * $page) for 0, 2;
    say_area("high", $at, 4 * $page);
}

sub key {
    my $key = syscall($n{pkey_alloc}, 0, 0);
    if ($key < 0) { print "REFUSED pkey_alloc: $!\n"; return }
    my $at = mmap(4 * $page, $READ | $WRITE, $PRIVATE | $ANON);
    touch($at + $_ * $page) for 0 .. 3;
    syscall($n{pkey_mprotect}, $at + 0, 2 * $page, $READ | $WRITE, $key + 0) == 0 or print "REFUSED pkey: $!\n";
    say_area("key-$key", $at, 4 * $page);
}

# Entries of pagemap (Documentation/admin-guide/mm/pagemap.rst), runs of equal flags and rising frames as
# "address count first-entry step": a step of 0 or 1 frames.
sub pagemap {
    my ($pid) = @_;
    open my $maps, "<", "/proc/$pid/maps" or die;
    open my $map, "<:raw", "/proc/$pid/pagemap" or die;
    while (my $line = <$maps>) {
        print "MAPS $pid $line";
        my ($first, $end) = map { hex } $line =~ /^([0-9a-f]+)-([0-9a-f]+)/;
        next if $line =~ /vsyscall/;
        my ($at, $from, $count, $head, $step) = ($first, $first, 0, 0, 0);
        while ($at < $end) {
            my $want = ($end - $at) / $page;
            $want = 65536 if $want > 65536;
            sysseek $map, $at / $page * 8, 0;
            sysread $map, my $bytes, 8 * $want;
            for my $entry (unpack "Q*", $bytes) {
                if ($count && $entry == $head + $step * $count) { $count++ }
                elsif ($count == 1 && $entry == $head + 1) { $step = 1; $count++ }
                else {
                    printf "PAGES %d %x %d %x %d\n", $pid, $from, $count, $head, $step if $count && $head;
                    ($from, $count, $head, $step) = ($at, 1, $entry, 0);
                }
                $at += $page;
            }
        }
        printf "PAGES %d %x %d %x %d\n", $pid, $from, $count, $head, $step if $count && $head;
    }
}

my $shared = mmap(8 * $page, $READ | $WRITE, $SHARED | $ANON);
my @children;
for my $which (0, 1) {
    pipe(my $told, my $tell) or die;
    my $pid = fork // die;
    if (!$pid) {
        syscall($n{sched_setaffinity}, 0, 8, pack("Q", 1 << $which)) == 0 or print "REFUSED affinity: $!\n";
        areas($which, $shared);
        syswrite $tell, "x";
        1 while 1;
    }
    sysread $told, my $byte, 1;
    push @children, $pid;
}
sleep 1;
pagemap($_) for @children;
print "READY @children page $page\n";
sleep 1000 while 1;
