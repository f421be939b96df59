; What the threads run, in LLVM's language; threads.py says what it is for.
;
; Each thread has two words in shared memory, 64 bytes apart: its state and how many joins it has reached. Behind those of
; all threads stands a count of launches. A state is 0, asleep; 1, ready; or 2, busy. 1000 is how often a thread looks at
; another one's word before it offers its core to other programs, and 400 how often it does that without work before it
; goes to sleep, which takes about a millisecond. An instruction has 20 words: the kernel, its table, whether all join
; afterwards, and where the share of each of up to 16 threads begins, and the end.

declare i32 @give_way()

define internal ptr @state_of(ptr %shared, i64 %worker) alwaysinline {
  %offset = mul i64 %worker, 128
  %state = getelementptr i8, ptr %shared, i64 %offset
  ret ptr %state
}

define internal ptr @joins_of(ptr %shared, i64 %worker) alwaysinline {
  %state = call ptr @state_of(ptr %shared, i64 %worker)
  %joins = getelementptr i8, ptr %state, i64 64
  ret ptr %joins
}

; Wait until the number at an address is at least so large.
define internal void @wait_for(ptr %word, i64 %least) {
entry:
  br label %look
look:
  %looks = phi i64 [ 0, %entry ], [ %more, %not_yet ], [ 0, %tired ]
  %now = load atomic i64, ptr %word acquire, align 8
  %there = icmp sge i64 %now, %least
  br i1 %there, label %done, label %not_yet
not_yet:
  %more = add i64 %looks, 1
  %is_tired = icmp eq i64 %more, 1000
  br i1 %is_tired, label %tired, label %look
tired:
  call i32 @give_way()
  br label %look
done:
  ret void
}

; Wait until every thread has come this far.
define internal void @join(ptr %shared, i64 %n_workers, i64 %worker) {
entry:
  %mine = call ptr @joins_of(ptr %shared, i64 %worker)
  %before = load i64, ptr %mine, align 8
  %reached = add i64 %before, 1
  store atomic i64 %reached, ptr %mine release, align 8
  br label %next
next:
  %other = phi i64 [ 0, %entry ], [ %following, %next ]
  %theirs = call ptr @joins_of(ptr %shared, i64 %other)
  call void @wait_for(ptr %theirs, i64 %reached)
  %following = add i64 %other, 1
  %all = icmp eq i64 %following, %n_workers
  br i1 %all, label %done, label %next
done:
  ret void
}

; One thread's share of all instructions, in order.
define internal void @work(ptr %list, i64 %length, i64 %n_workers, i64 %worker, ptr %shared) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %following, %continue ]
  %offset = mul i64 %i, 160
  %instruction = getelementptr i8, ptr %list, i64 %offset
  %bounds = getelementptr i8, ptr %instruction, i64 24
  %from = getelementptr i64, ptr %bounds, i64 %worker
  %to = getelementptr i64, ptr %from, i64 1
  %start = load i64, ptr %from
  %stop = load i64, ptr %to
  %any = icmp slt i64 %start, %stop
  br i1 %any, label %run, label %after
run:
  %kernel = load ptr, ptr %instruction
  %table_at = getelementptr i8, ptr %instruction, i64 8
  %table = load ptr, ptr %table_at
  call void %kernel(ptr %table, i64 %start, i64 %stop)
  br label %after
after:
  %join_at = getelementptr i8, ptr %instruction, i64 16
  %join = load i64, ptr %join_at
  %joins = icmp ne i64 %join, 0
  br i1 %joins, label %meet, label %continue
meet:
  call void @join(ptr %shared, i64 %n_workers, i64 %worker)
  br label %continue
continue:
  %following = add i64 %i, 1
  %end = icmp eq i64 %following, %length
  br i1 %end, label %done, label %next
done:
  ret void
}

; What a helping thread does while it is awake: its share of each launch, until none comes for a while.
define void @help_out(ptr %list, i64 %length, i64 %n_workers, i64 %worker, ptr %shared) {
entry:
  %state = call ptr @state_of(ptr %shared, i64 %worker)
  %launches = call ptr @state_of(ptr %shared, i64 %n_workers)
  %first = load atomic i64, ptr %launches acquire, align 8
  store atomic i64 1, ptr %state release, align 8
  br label %look
look:
  %seen = phi i64 [ %first, %entry ], [ %seen, %again ], [ %seen, %rest ], [ %served, %serve ]
  %looks = phi i64 [ 0, %entry ], [ %more, %again ], [ 0, %rest ], [ 0, %serve ]
  %rests = phi i64 [ 0, %entry ], [ %rests, %again ], [ %rested, %rest ], [ 0, %serve ]
  %now = load atomic i64, ptr %launches acquire, align 8
  %called = icmp sgt i64 %now, %seen
  br i1 %called, label %serve, label %idle
serve:
  call void @work(ptr %list, i64 %length, i64 %n_workers, i64 %worker, ptr %shared)
  %served = add i64 %seen, 1
  store atomic i64 1, ptr %state release, align 8
  br label %look
idle:
  %more = add i64 %looks, 1
  %is_tired = icmp eq i64 %more, 1000
  br i1 %is_tired, label %tired, label %again
again:
  br label %look
tired:
  %rested = add i64 %rests, 1
  %patient = icmp slt i64 %rested, 400
  br i1 %patient, label %rest, label %sleep
rest:
  call i32 @give_way()
  br label %look
sleep:
  %old = cmpxchg ptr %state, i64 1, i64 0 acq_rel acquire
  %asleep = extractvalue { i64, i1 } %old, 1
  br i1 %asleep, label %done, label %rest
done:
  ret void
}

define internal void @lock(ptr %word) {
entry:
  br label %try
try:
  %old = cmpxchg ptr %word, i64 0, i64 1 acq_rel acquire
  %mine = extractvalue { i64, i1 } %old, 1
  br i1 %mine, label %done, label %wait
wait:
  call i32 @give_way()
  br label %try
done:
  ret void
}

; Let the BLAS libraries compute on the thread that calls them (change = 1), until as many calls with change = -1. `blas`
; holds a lock, how many such calls there are, the number of libraries, and for each the functions that tell and set the
; number of its threads, and that number before.
define internal void @hold_blas(ptr %blas, i64 %change) {
entry:
  call void @lock(ptr %blas)
  %users_at = getelementptr i64, ptr %blas, i64 1
  %users = load i64, ptr %users_at
  %now = add i64 %users, %change
  store i64 %now, ptr %users_at
  %is_hold = icmp sgt i64 %change, 0
  %others = select i1 %is_hold, i64 %users, i64 %now
  %only = icmp eq i64 %others, 0
  %number_at = getelementptr i64, ptr %blas, i64 2
  %number = load i64, ptr %number_at
  %some = icmp sgt i64 %number, 0
  %do = and i1 %only, %some
  br i1 %do, label %next, label %done
next:
  %i = phi i64 [ 0, %entry ], [ %following, %continue ]
  %at = mul i64 %i, 3
  %place = add i64 %at, 3
  %tell_at = getelementptr i64, ptr %blas, i64 %place
  %put_at = getelementptr i64, ptr %tell_at, i64 1
  %kept_at = getelementptr i64, ptr %tell_at, i64 2
  %put = load ptr, ptr %put_at
  br i1 %is_hold, label %hold, label %release
hold:
  %tell = load ptr, ptr %tell_at
  %threads = call i32 %tell()
  %wide = sext i32 %threads to i64
  store i64 %wide, ptr %kept_at
  call void %put(i32 1)
  br label %continue
release:
  %kept = load i64, ptr %kept_at
  %before = trunc i64 %kept to i32
  call void %put(i32 %before)
  br label %continue
continue:
  %following = add i64 %i, 1
  %end = icmp eq i64 %following, %number
  br i1 %end, label %done, label %next
done:
  store atomic i64 0, ptr %blas release, align 8
  ret void
}

; Run the list once; 0, and nothing has been done, where a helper is asleep and must be woken first. A launch counts only
; once no helper can fall asleep any more, so an interruption of Python between two tries leaves nothing half done. Here,
; out of Python's sight, BLAS is held to one thread: no interruption can leave it so.
define i64 @launch(ptr %list, i64 %length, i64 %n_workers, ptr %shared, ptr %blas) {
entry:
  %alone = icmp eq i64 %n_workers, 1
  br i1 %alone, label %go, label %call
call:
  %helper = phi i64 [ 1, %entry ], [ %following, %called ]
  %state = call ptr @state_of(ptr %shared, i64 %helper)
  br label %look
look:
  %now = load atomic i64, ptr %state acquire, align 8
  %busy = icmp eq i64 %now, 2  ; it is just ending the launch before
  br i1 %busy, label %wait, label %try
wait:
  call i32 @give_way()
  br label %look
try:
  %old = cmpxchg ptr %state, i64 1, i64 2 acq_rel acquire
  %ready = extractvalue { i64, i1 } %old, 1
  br i1 %ready, label %called, label %dismiss
called:
  %following = add i64 %helper, 1
  %all = icmp eq i64 %following, %n_workers
  br i1 %all, label %go, label %call
dismiss:
  %back = phi i64 [ 1, %try ], [ %back_next, %undo ]
  %undone = icmp eq i64 %back, %helper
  br i1 %undone, label %asleep, label %undo
undo:
  %called_state = call ptr @state_of(ptr %shared, i64 %back)
  store atomic i64 1, ptr %called_state release, align 8
  %back_next = add i64 %back, 1
  br label %dismiss
asleep:
  ret i64 0
go:
  call void @hold_blas(ptr %blas, i64 1)
  %launches = call ptr @state_of(ptr %shared, i64 %n_workers)
  %count = load i64, ptr %launches, align 8
  %counted = add i64 %count, 1
  store atomic i64 %counted, ptr %launches release, align 8
  call void @work(ptr %list, i64 %length, i64 %n_workers, i64 0, ptr %shared)
  call void @hold_blas(ptr %blas, i64 -1)
  ret i64 1
}

; A share of the matrix product out = a @ b: some of its rows, or some of its columns. The table has twelve words: BLAS's
; function; the addresses of a, b and out; how many bytes these lie further on for each row or column of the share; the
; addresses of what else BLAS reads: the orders of b and a as two letters, two scales of this size (1, and 0 to overwrite
; or 1 to add to out), and the numbers n, m, k and how many values rows of b, a and out lie apart; the size of a scale;
; whether rows are shared out.
%product_table = type { ptr, ptr, ptr, ptr, i64, i64, i64, ptr, ptr, ptr, i64, i64 }

define void @product(ptr %table, i64 %start, i64 %stop) {
  %count = alloca i32
  %wide = sub i64 %stop, %start
  %narrow = trunc i64 %wide to i32
  store i32 %narrow, ptr %count
  %words = load %product_table, ptr %table
  %blas = extractvalue %product_table %words, 0
  %a_at = extractvalue %product_table %words, 1
  %b_at = extractvalue %product_table %words, 2
  %out_at = extractvalue %product_table %words, 3
  %a_step = extractvalue %product_table %words, 4
  %b_step = extractvalue %product_table %words, 5
  %out_step = extractvalue %product_table %words, 6
  %orders = extractvalue %product_table %words, 7
  %scales = extractvalue %product_table %words, 8
  %sizes = extractvalue %product_table %words, 9
  %scale_size = extractvalue %product_table %words, 10
  %by_rows = extractvalue %product_table %words, 11
  %a_offset = mul i64 %start, %a_step
  %a = getelementptr i8, ptr %a_at, i64 %a_offset
  %b_offset = mul i64 %start, %b_step
  %b = getelementptr i8, ptr %b_at, i64 %b_offset
  %out_offset = mul i64 %start, %out_step
  %out = getelementptr i8, ptr %out_at, i64 %out_offset
  %a_order = getelementptr i8, ptr %orders, i64 1
  %beta = getelementptr i8, ptr %scales, i64 %scale_size
  %all_rows = getelementptr i32, ptr %sizes, i64 1
  %k = getelementptr i32, ptr %sizes, i64 2
  %b_apart = getelementptr i32, ptr %sizes, i64 3
  %a_apart = getelementptr i32, ptr %sizes, i64 4
  %out_apart = getelementptr i32, ptr %sizes, i64 5
  %rows = icmp ne i64 %by_rows, 0
  %n = select i1 %rows, ptr %sizes, ptr %count
  %m = select i1 %rows, ptr %count, ptr %all_rows
  call void %blas(ptr %orders, ptr %a_order, ptr %n, ptr %m, ptr %k, ptr %scales, ptr %b, ptr %b_apart,
                  ptr %a, ptr %a_apart, ptr %beta, ptr %out, ptr %out_apart)
  ret void
}
