;; A plugin that counts its events and echoes them, and does on demand what a
;; plugin must not: the first byte of an event's value says what.
;;
;; Its layouts are the canonical ABI's:
;;   event     40: offset 0, timestamp 8, seed 16, headers 24, value 32
;;   emission  48: event 0, output 4, key 16, headers 28, value 36
;;   outcome   24: emissions 0, refused 8 (index 12, reason 16)
;;   saved     20: is-some 0, format 4, state 12
(module
  (import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))
  (import "wasi:cli/stderr@0.2.3" "get-stderr" (func $stderr (result i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.3" "now" (func $monotonic (result i64)))
  (import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration"
    (func $subscribe (param i64) (result i32)))
  (import "wasi:clocks/wall-clock@0.2.3" "now" (func $wall (param i32)))
  (import "wasi:random/random@0.2.3" "get-random-u64" (func $random (result i64)))
  (import "wasi:sockets/tcp-create-socket@0.2.3" "create-tcp-socket"
    (func $socket (param i32 i32)))
  (import "[export]courtside:plugin/processor@0.1.0" "[resource-new]entity"
    (func $entity-new (param i32) (result i32)))

  (memory (export "memory") 2)
  (data (i32.const 16) "probe")
  (data (i32.const 32) "1.2.3")
  (data (i32.const 48) "probe/1")
  (data (i32.const 64) "no good")
  (data (i32.const 80) "\nthread panicked at src/lib.rs:7:5:\nboom\nnote: run with `RUST_BACKTRACE=1`\n")
  (data (i32.const 192) "\ff\fe")
  (data (i32.const 208) "other/9")
  (data (i32.const 224) "board")

  ;; Entities live from 4096 on, 16 bytes each; what a call allocates from
  ;; 65536 on, until it returns.
  (global $entities (mut i32) (i32.const 4096))
  (global $heap (mut i32) (i32.const 65536))
  (global $closed (mut i32) (i32.const 0))
  ;; The action of the latest event that was for the checkpoint to do.
  (global $checkpoint-action (mut i32) (i32.const 0))

  ;; @start

  (func $alloc (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $enough
      (loop $more
        (br_if $enough
          (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (br $more)))
    (local.get $at))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (call $alloc (local.get 2) (local.get 3)))

  (func $text (param $at i32) (param $text i32) (param $len i32)
    (i32.store (local.get $at) (local.get $text))
    (i32.store offset=4 (local.get $at) (local.get $len)))

  (func (export "courtside:plugin/processor@0.1.0#describe") (result i32)
    (local $out i32)
    ;; @describe
    (local.set $out (call $alloc (i32.const 4) (i32.const 40)))
    (call $text (local.get $out) (i32.const 16) (i32.const 5))
    (call $text (i32.add (local.get $out) (i32.const 8)) (i32.const 32) (i32.const 5))
    (call $text (i32.add (local.get $out) (i32.const 16)) (i32.const 48) (i32.const 7))
    (call $text (i32.add (local.get $out) (i32.const 24))
      (i32.add (local.get $out) (i32.const 32)) (i32.const 1))
    (call $text (i32.add (local.get $out) (i32.const 32)) (i32.const 48) (i32.const 7))
    (local.get $out))

  (func (export "courtside:plugin/processor@0.1.0#[static]entity.open")
    (param $key i32) (param $key-len i32) (param $saved i32)
    (param $format i32) (param $format-len i32) (param $state i32) (param $state-len i32)
    (result i32)
    (local $out i32) (local $entity i32)
    (local.set $out (call $alloc (i32.const 4) (i32.const 12)))
    (if (i32.and (local.get $saved) (i32.ne (local.get $state-len) (i32.const 4)))
      (then
        (i32.store (local.get $out) (i32.const 1))
        (call $text (i32.add (local.get $out) (i32.const 4)) (i32.const 64) (i32.const 7))
        (return (local.get $out))))
    (local.set $entity (global.get $entities))
    (global.set $entities (i32.add (local.get $entity) (i32.const 16)))
    (if (local.get $saved)
      (then (i32.store (local.get $entity) (i32.load (local.get $state)))))
    (i32.store (local.get $out) (i32.const 0))
    (i32.store offset=4 (local.get $out) (call $entity-new (local.get $entity)))
    (local.get $out))

  (func (export "courtside:plugin/processor@0.1.0#[dtor]entity") (param i32)
    (global.set $closed (i32.add (global.get $closed) (i32.const 1))))

  (func $recurse (param i32) (result i32)
    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))

  (func $say (param $from i32) (param $len i32)
    (call $write (call $stderr) (local.get $from) (local.get $len) (i32.const 1024)))

  ;; What leads nowhere.
  (func $misbehave (param $action i32)
    (if (i32.eq (local.get $action) (i32.const 0x74)) ;; t
      (then unreachable))
    (if (i32.eq (local.get $action) (i32.const 0x6c)) ;; l
      (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $action) (i32.const 0x6d)) ;; m
      (then
        (loop $more
          (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        unreachable))
    (if (i32.eq (local.get $action) (i32.const 0x78)) ;; x
      (then (call $exit (i32.const 1))))
    (if (i32.eq (local.get $action) (i32.const 0x77)) ;; w
      (then (call $block (call $subscribe (i64.const 1000000)))))
    (if (i32.eq (local.get $action) (i32.const 0x73)) ;; s
      (then (drop (call $recurse (i32.const 0)))))
    (if (i32.eq (local.get $action) (i32.const 0x70)) ;; p
      (then
        (call $say (i32.const 80) (i32.const 75))
        unreachable)))

  ;; Three draws from the world outside: chance, and two clocks.
  (func $world (param $at i32)
    (i64.store (local.get $at) (call $random))
    (i64.store offset=8 (local.get $at) (call $monotonic))
    (call $wall (i32.const 1024))
    (i64.store offset=16 (local.get $at) (i64.load (i32.const 1024))))

  (func (export "courtside:plugin/processor@0.1.0#[method]entity.process")
    (param $entity i32) (param $events i32) (param $count i32) (result i32)
    (local $out i32) (local $emissions i32) (local $at i32)
    (local $index i32) (local $value i32) (local $len i32) (local $action i32)
    (local.set $out (call $alloc (i32.const 4) (i32.const 24)))
    (memory.fill (local.get $out) (i32.const 0) (i32.const 24))
    (local.set $emissions
      (call $alloc (i32.const 4) (i32.mul (local.get $count) (i32.const 48))))
    (memory.fill (local.get $emissions) (i32.const 0)
      (i32.mul (local.get $count) (i32.const 48)))
    (i32.store (local.get $out) (local.get $emissions))
    (local.set $at (local.get $emissions))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (local.get $count)))
        (local.set $value (i32.load offset=32 (local.get $events)))
        (local.set $len (i32.load offset=36 (local.get $events)))
        (local.set $action
          (if (result i32) (local.get $len)
            (then (i32.load8_u (local.get $value)))
            (else (i32.const 0))))
        (call $misbehave (local.get $action))
        (if (i32.or
              (i32.eq (local.get $action) (i32.const 0x72))   ;; r: refuse it
              (i32.eq (local.get $action) (i32.const 0x69)))  ;; i: refuse another
          (then
            (i32.store offset=8 (local.get $out) (i32.const 1))
            (i32.store offset=12 (local.get $out)
              (if (result i32) (i32.eq (local.get $action) (i32.const 0x72))
                (then (local.get $index))
                (else (i32.const 99))))
            (call $text (i32.add (local.get $out) (i32.const 16))
              (i32.const 64) (i32.const 7))
            (br $done)))
        (i32.store (local.get $entity)
          (i32.add (i32.load (local.get $entity)) (i32.const 1)))

        ;; The emission: an echo, unless the action is another.
        (i32.store (local.get $at) (local.get $index))
        (i32.store offset=36 (local.get $at) (i32.const 1))
        (call $text (i32.add (local.get $at) (i32.const 40)) (local.get $value) (local.get $len))
        (if (i32.eq (local.get $action) (i32.const 0x6f)) ;; o: for no event
          (then (i32.store (local.get $at) (i32.const 99))))
        (if (i32.eq (local.get $action) (i32.const 0x62)) ;; b: all of memory
          (then
            (call $text (i32.add (local.get $at) (i32.const 40))
              (i32.const 0) (i32.mul (memory.size) (i32.const 65536)))))
        (if (i32.eq (local.get $action) (i32.const 0x65)) ;; e: a little too much
          (then
            (call $text (i32.add (local.get $at) (i32.const 40))
              (i32.const 0) (i32.const 70000))))
        (if (i32.eq (local.get $action) (i32.const 0x75)) ;; u: an output that is no text
          (then
            (i32.store offset=4 (local.get $at) (i32.const 1))
            (call $text (i32.add (local.get $at) (i32.const 8))
              (i32.const 192) (i32.const 2))))
        (if (i32.eq (local.get $action) (i32.const 0x68)) ;; h: everything there is
          (then
            (i32.store offset=4 (local.get $at) (i32.const 1))
            (call $text (i32.add (local.get $at) (i32.const 8))
              (i32.const 224) (i32.const 5))
            (i32.store offset=16 (local.get $at) (i32.const 1))
            (call $text (i32.add (local.get $at) (i32.const 20))
              (local.get $events) (i32.const 24)) ;; offset, timestamp, seed
            (i64.store offset=28 (local.get $at)
              (i64.load offset=24 (local.get $events)))
            (i32.store offset=36 (local.get $at) (i32.const 0))))
        (if (i32.eq (local.get $action) (i32.const 0x64)) ;; d: draw
          (then
            (local.set $value (call $alloc (i32.const 8) (i32.const 24)))
            (call $world (local.get $value))
            (call $text (i32.add (local.get $at) (i32.const 40))
              (local.get $value) (i32.const 24))))
        (if (i32.eq (local.get $action) (i32.const 0x6e)) ;; n: network
          (then
            (local.set $value (call $alloc (i32.const 8) (i32.const 8)))
            (memory.fill (local.get $value) (i32.const 0) (i32.const 8))
            (call $socket (i32.const 0) (local.get $value))
            (call $text (i32.add (local.get $at) (i32.const 40))
              (local.get $value) (i32.const 5))))
        (if (i32.eq (local.get $action) (i32.const 0x6b)) ;; k: how many were closed
          (then
            (local.set $value (call $alloc (i32.const 4) (i32.const 4)))
            (i32.store (local.get $value) (global.get $closed))
            (call $text (i32.add (local.get $at) (i32.const 40))
              (local.get $value) (i32.const 4))))
        (if (i32.or
              (i32.or
                (i32.eq (local.get $action) (i32.const 0x31))   ;; 1: checkpoint too large
                (i32.eq (local.get $action) (i32.const 0x32)))  ;; 2: of another format
              (i32.or
                (i32.eq (local.get $action) (i32.const 0x33))   ;; 3: traps
                (i32.eq (local.get $action) (i32.const 0x34)))) ;; 4: all of memory
          (then (global.set $checkpoint-action (local.get $action))))
        (if (i32.ne (local.get $action) (i32.const 0x71)) ;; q: quietly
          (then
            (local.set $at (i32.add (local.get $at) (i32.const 48)))
            (i32.store offset=4 (local.get $out)
              (i32.add (i32.load offset=4 (local.get $out)) (i32.const 1)))))

        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (local.set $events (i32.add (local.get $events) (i32.const 40)))
        (br $next)))
    (local.get $out))

  (func (export "courtside:plugin/processor@0.1.0#[method]entity.checkpoint")
    (param $entity i32) (result i32)
    (local $out i32)
    (local.set $out (call $alloc (i32.const 4) (i32.const 20)))
    (i32.store (local.get $out) (i32.ne (i32.load (local.get $entity)) (i32.const 0)))
    (call $text (i32.add (local.get $out) (i32.const 4)) (i32.const 48) (i32.const 7))
    (call $text (i32.add (local.get $out) (i32.const 12)) (local.get $entity) (i32.const 4))
    (if (i32.eq (global.get $checkpoint-action) (i32.const 0x31))
      (then
        (call $text (i32.add (local.get $out) (i32.const 12)) (i32.const 0) (i32.const 5000))))
    (if (i32.eq (global.get $checkpoint-action) (i32.const 0x34))
      (then
        (call $text (i32.add (local.get $out) (i32.const 12))
          (i32.const 0) (i32.mul (memory.size) (i32.const 65536)))))
    (if (i32.eq (global.get $checkpoint-action) (i32.const 0x32))
      (then
        (call $text (i32.add (local.get $out) (i32.const 4)) (i32.const 208) (i32.const 7))))
    (if (i32.eq (global.get $checkpoint-action) (i32.const 0x33))
      (then unreachable))
    (local.get $out))

  (func $free (param i32) (global.set $heap (i32.const 65536)))
  (export "cabi_post_courtside:plugin/processor@0.1.0#describe" (func $free))
  (export "cabi_post_courtside:plugin/processor@0.1.0#[static]entity.open" (func $free))
  (export "cabi_post_courtside:plugin/processor@0.1.0#[method]entity.process" (func $free))
  (export "cabi_post_courtside:plugin/processor@0.1.0#[method]entity.checkpoint" (func $free))
)
