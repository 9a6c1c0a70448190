#!/bin/busybox sh
# The first process of a guest: file systems, huge pages of each size that the kernel has, then the
# program that maps memory.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for folder in /sys/kernel/mm/hugepages/hugepages-*; do
    size=${folder##*-}
    case $size in
    1048576kB | 16777216kB) ;; # asked for on the kernel's command line, where there is memory for them
    *) echo 2 >"$folder/nr_hugepages" ;;
    esac
    echo "HUGE $size $(/bin/busybox cat "$folder/nr_hugepages")"
done
# khugepaged and compaction would move what was listed.
echo 0 >/sys/kernel/mm/transparent_hugepage/khugepaged/defrag
echo 3600000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
exec /usr/bin/perl /mappings.pl
