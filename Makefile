# qkdn - one Makefile, explicit lists, everything under $(BUILD).
#
#   make              every program and library, into build/bin and build/lib
#   make check        every test        make demo     three nodes and a key
#   make tests        builds the tests, for `tests/run FILE` of one of them
#   make check-thread, check-valgrind   the tests under ThreadSanitizer, under valgrind's memcheck
#   make fuzz, soak   a minute of each fuzzer; hours of faults at random      make lint   compilers' and cppcheck's warnings
#   make install      DESTDIR=… prefix=…
#   make SANITIZE=address,undefined BUILD=build/asan check-unit check-sim
#   make V=1          shows the commands

VERSION := 0.1.0
BUILD   ?= build
prefix  ?= /usr/local
CC      ?= cc
PKG_CONFIG ?= pkg-config
Q := $(if $(V),,@)
comma := ,

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wvla -Wundef
HARDEN := -fstack-protector-strong -fPIC
ifneq ($(SANITIZE),)
OPT := -O1 -g -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=$(SANITIZE)
else
OPT ?= -O2 -g -D_FORTIFY_SOURCE=2
endif
# gc-sections: rpcgen puts the dispatchers of both directions of a reference point into one file
LDFLAGS += -Wl,--gc-sections -Wl,-z,relro,-z,now
CPPFLAGS += -D_GNU_SOURCE -DQKDN_VERSION=\"$(VERSION)\" -MMD -MP \
	-Ilib/base -Ilib/conf -Ilib/rpc -Ilib/otp -Ilib/keystore -Ilib/route -Iclient -Itools -Itools/ctl -I$(BUILD)/idl \
	$(shell $(PKG_CONFIG) --cflags libtirpc)
CFLAGS_ALL := -std=gnu11 $(OPT) $(HARDEN) -ffunction-sections -fdata-sections $(CFLAGS)
LIBS := $(shell $(PKG_CONFIG) --libs libtirpc libssl libcrypto libevent_core libconfig lmdb jansson) -lpthread -lm

all: programs

# ---- the wire: rpcgen's stubs, made here, never edited ---------------------------------------
# rpcgen is run inside idl/ (it writes the include path as it was given its argument), does not
# overwrite, and compiles with warnings: hence the copy, the rm and the flags of their own.
IDL := common key ak kq1 kq2 kx1 kx2 ck cx mk mc
IDL_HEADERS := $(IDL:%=$(BUILD)/idl/%.h)
IDL_OBJECTS := $(IDL:%=$(BUILD)/idl/%_xdr.o) \
	$(foreach x,$(filter-out common key,$(IDL)),$(BUILD)/idl/$(x)_clnt.o $(BUILD)/idl/$(x)_svc.o)

define rpcgen_rule
$(BUILD)/idl/%$(1): idl/%.x
	@mkdir -p $$(@D)
	$(Q)rm -f $$@ && cd idl && rpcgen -C -M $(2) -o $(abspath $(BUILD))/idl/$$*$(1) $$*.x
endef
$(eval $(call rpcgen_rule,.h,-h))
$(eval $(call rpcgen_rule,_xdr.c,-c))
$(eval $(call rpcgen_rule,_clnt.c,-l))
$(eval $(call rpcgen_rule,_svc.c,-m))
.PRECIOUS: $(BUILD)/idl/%.h $(BUILD)/idl/%_xdr.c $(BUILD)/idl/%_clnt.c $(BUILD)/idl/%_svc.c

$(BUILD)/idl/%.o: $(BUILD)/idl/%.c $(IDL_HEADERS)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -w -c -o $@ $<

# ---- libraries --------------------------------------------------------------------------------
BASE     := address base confine daemon env_event env_virtual file id log secret status
CONF     := conf conf_value
RPC      := buffer call channel client conn deadline dispatch endpoint gate lookup message party peer record \
	rpcbind session tls trace traffic turn wipe
OTP      := otp
KEYSTORE := assignment bits chunk generation keyid keyring kv_changes kv_journal kv_lmdb kv_lmdb_check kv_memory \
	master note pick pool rotate row seal store stream sweep undo value voids
ROUTE    := disjoint lsdb route topology

OBJECTS_base     := $(BASE:%=$(BUILD)/lib/base/%.o)
OBJECTS_conf     := $(CONF:%=$(BUILD)/lib/conf/%.o)
OBJECTS_rpc      := $(RPC:%=$(BUILD)/lib/rpc/%.o)
OBJECTS_otp      := $(OTP:%=$(BUILD)/lib/otp/%.o)
OBJECTS_keystore := $(KEYSTORE:%=$(BUILD)/lib/keystore/%.o)
OBJECTS_route    := $(ROUTE:%=$(BUILD)/lib/route/%.o)
OBJECTS_lib := $(foreach l,base conf rpc otp keystore route,$(OBJECTS_$(l)))

# What every program may link; the linker takes what is used.
$(BUILD)/libinternal.a: $(OBJECTS_lib) $(IDL_OBJECTS)
	$(Q)rm -f $@ && ar rcs $@ $^

# ---- libqkdn: the library for applications ----------------------------------------------------
# Both forms stand alone and show only what qkdn.h names: the shared one by its version script, the
# static one because everything is linked into one object whose other symbols are made local.
LIBQKDN         := qkdn ak_client
LIBQKDN_SONAME  := libqkdn.so.0
LIBQKDN_SHARED  := $(BUILD)/lib/libqkdn.so.$(VERSION)
LIBQKDN_STATIC  := $(BUILD)/lib/libqkdn.a
LIBQKDN_PC      := $(BUILD)/lib/qkdn.pc
OBJECTS_client  := $(LIBQKDN:%=$(BUILD)/client/%.o)
LIBS_client     := $(shell $(PKG_CONFIG) --libs libtirpc libssl libcrypto) -lpthread
LIBQKDN_ROOTS   := $(shell sed -n 's/^\t\t\(qkdn_[a-z_]*\);/-u \1/p' client/libqkdn.map)
libdir          ?= $(prefix)/lib
includedir      ?= $(prefix)/include

$(LIBQKDN_SHARED): $(OBJECTS_client) $(BUILD)/libinternal.a client/libqkdn.map
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) -shared $(LDFLAGS) $(if $(SANITIZE),,-Wl$(comma)-z$(comma)defs) \
		-Wl,-soname,$(LIBQKDN_SONAME) -Wl,--version-script=client/libqkdn.map -o $@ \
		$(OBJECTS_client) $(BUILD)/libinternal.a $(LIBS_client)
	$(Q)ln -sf $(@F) $(@D)/$(LIBQKDN_SONAME) && ln -sf $(LIBQKDN_SONAME) $(@D)/libqkdn.so

$(LIBQKDN_STATIC): $(OBJECTS_client) $(BUILD)/libinternal.a client/libqkdn.map
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ld -r --gc-sections $(LIBQKDN_ROOTS) -o $(@D)/libqkdn.o $(OBJECTS_client) $(BUILD)/libinternal.a && \
		objcopy --wildcard --keep-global-symbol='qkdn_*' $(@D)/libqkdn.o && \
		ar rcs $@ $(@D)/libqkdn.o && rm $(@D)/libqkdn.o

# Made anew each time: the folders may differ from the last make's.
$(LIBQKDN_PC): client/qkdn.pc.in FORCE
	@mkdir -p $(@D)
	$(Q)sed -e 's|@includedir@|$(includedir)|; s|@libdir@|$(libdir)|; s|@version@|$(VERSION)|' $< > $@

$(BUILD)/%.o: %.c | $(IDL_HEADERS)
	@mkdir -p $(@D)
	$(Q)echo "  CC $<"; $(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(WARN) -c -o $@ $<

# ---- programs ---------------------------------------------------------------------------------
# A program is a name and its own sources.
PROGRAMS :=

PROGRAMS += qkdn-pki qkdn-lab
qkdn-pki := tools/command.c tools/pki/pki.c tools/pki/show.c tools/pki/ca.c tools/pki/crl.c
qkdn-lab := tools/command.c $(patsubst %,tools/lab/%.c,main lab topology files netns daemons process) tools/pki/ca.c

PROGRAMS += qkdn-keyreq
qkdn-keyreq := tools/command.c tools/keyreq/keyreq.c tools/keyreq/output.c tools/keyreq/key_files.c

PROGRAMS += qkdn-kmd
KM := km km_make km_link km_stock km_ingest km_module km_sync km_use km_pool km_fill km_verify km_allocate km_hop km_transit km_route km_recall km_share km_relay km_control km_supply km_draw km_ahead km_assign km_fetch km_status
qkdn-kmd := $(KM:%=server/km/%.c) server/km/wire.c server/km/km_ak.c server/km/km_kq.c server/km/km_kx1.c \
	server/km/km_kx2.c server/km/km_ck.c server/km/km_mk.c server/km/km_conf.c server/km/kmd.c

PROGRAMS += qkdnctl

LADDER  := ladder ladder_svg ladder_text trace_log
qkdnctl := tools/command.c tools/ctl/ctl.c tools/ctl/trace.c tools/ctl/topology.c tools/ctl/km.c tools/ctl/daemon_client.c $(LADDER:%=tools/ctl/%.c)

PROGRAMS += qkdn-quantumd
qkdn-quantumd := $(addprefix server/quantum/,quantumd.c settings.c device.c quantum_kq1.c quantum_kq2.c \
	qkd_link.c qkd_module.c key_block.c model.c)

CONTROLLER_CORE := controller flood reserve routes
CONTROLLER_WIRE := controller_ck controller_cx controller_mc controller_wire
PROGRAMS += qkdn-controllerd
qkdn-controllerd := $(patsubst %,server/controller/%.c,$(CONTROLLER_CORE) $(CONTROLLER_WIRE) settings controllerd)

define program_rule
$(BUILD)/bin/$(1): $$($(1):%.c=$(BUILD)/%.o) $(BUILD)/libinternal.a
	@mkdir -p $$(@D)
	$(Q)echo "  LD $(1)"; $$(CC) $$(LDFLAGS) -o $$@ $$^ $$(LIBS)
OBJECTS_programs += $$($(1):%.c=$(BUILD)/%.o)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program_rule,$(p))))
$(BUILD)/bin/qkdn-keyreq: $(LIBQKDN_STATIC)
$(patsubst %,$(BUILD)/bin/qkdn-%,kmd quantumd controllerd): LIBS += -lseccomp

programs: $(PROGRAMS:%=$(BUILD)/bin/%) $(BUILD)/libinternal.a $(LIBQKDN_SHARED) $(LIBQKDN_STATIC) $(LIBQKDN_PC)

# ---- tests ------------------------------------------------------------------------------------
# Units: tests/unit/test_NAME.c, one cmocka program each.
UNITS := base confine daemon otp quantum_model
UNITS += route controller controller_central controller_wire flood
UNITS += conf
UNITS += ladder
UNITS += client
UNITS += rpc rpc_wire rpc_bind rpc_refusals rpc_turn
UNITS += quantum_link quantum_device
UNITS += keystore keystore_model keystore_files keystore_journal keystore_crash keystore_master keystore_memory

$(BUILD)/tests/unit/test_%: $(BUILD)/tests/unit/test_%.o $(BUILD)/libinternal.a
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LIBS) $(TEST_LIBS)

# A change of the master key is stopped in each of the calls that change a file.
$(BUILD)/tests/unit/test_keystore_master: LDFLAGS += \
	$(foreach f,open write pwrite fsync close rename unlink,-Wl$(comma)--wrap=$(f))

$(BUILD)/tests/unit/test_confine: TEST_LIBS += -lseccomp

# Units of programs: their objects beside the libraries.
# libqkdn is tested as applications see it: through its static library.
$(BUILD)/tests/unit/test_client.o $(BUILD)/tests/lib/fake_ksa.o: CPPFLAGS += -Itests/lib
$(BUILD)/tests/unit/test_client: $(addprefix $(BUILD)/tests/lib/,fake_ksa.o test_pki.o) $(LIBQKDN_STATIC)
$(BUILD)/tests/unit/test_ladder: $(LADDER:%=$(BUILD)/tools/ctl/%.o)

# What a test needs besides the libraries.
$(patsubst %,$(BUILD)/tests/unit/test_%,controller controller_central flood): $(CONTROLLER_CORE:%=$(BUILD)/server/controller/%.o)
$(BUILD)/tests/unit/test_controller_wire: $(BUILD)/tests/lib/test_pki.o \
	$(patsubst %,$(BUILD)/server/controller/%.o,$(CONTROLLER_CORE) $(CONTROLLER_WIRE))
$(patsubst %,$(BUILD)/tests/unit/test_%.o,controller controller_central controller_wire flood): \
	CPPFLAGS += -Iserver/controller -Itests/lib
# igraph is the independent implementation that routes are compared with.
$(BUILD)/tests/unit/test_route $(BUILD)/bench/bench_route: TEST_LIBS := $(shell $(PKG_CONFIG) --libs igraph)
$(BUILD)/tests/unit/test_route.o $(BUILD)/tests/bench/bench_route.o: \
	CPPFLAGS += $(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags igraph))
# The tests of lib/rpc have a program of their own, made by rpcgen like the suite's, and certificates.
ECHO := $(addprefix $(BUILD)/tests/unit/echo,.h _xdr.c _clnt.c _svc.c)
RPC_TESTS := rpc rpc_wire rpc_bind rpc_refusals
ECHO_OBJECTS := $(patsubst %.c,%.o,$(filter %.c,$(ECHO)))
RPC_TEST_OBJECTS := $(ECHO_OBJECTS) $(BUILD)/tests/lib/test_pki.o $(BUILD)/tests/lib/echo_ends.o
$(ECHO) &: tests/unit/echo.x
	@mkdir -p $(BUILD)/tests/unit
	$(Q)rm -f $(ECHO) && cd tests/unit && out=$(abspath $(BUILD))/tests/unit/echo && \
		rpcgen -C -M -h -o $$out.h echo.x && rpcgen -C -M -c -o $${out}_xdr.c echo.x && \
		rpcgen -C -M -l -o $${out}_clnt.c echo.x && rpcgen -C -M -m -o $${out}_svc.c echo.x
$(ECHO_OBJECTS): $(BUILD)/tests/unit/%.o: $(BUILD)/tests/unit/%.c
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -w -c -o $@ $<
$(BUILD)/tests/unit/test_quantum_model: $(BUILD)/server/quantum/model.o
$(BUILD)/tests/unit/test_quantum_link: $(addprefix $(BUILD)/server/quantum/,model.o key_block.o qkd_module.o qkd_link.o)
$(BUILD)/tests/unit/test_quantum_device: $(BUILD)/tests/lib/test_pki.o $(addprefix $(BUILD)/server/quantum/,model.o \
	key_block.o qkd_module.o qkd_link.o device.o quantum_kq1.o quantum_kq2.o)
$(BUILD)/tests/unit/test_quantum_device.o: CPPFLAGS += -Itests/lib
$(RPC_TEST_OBJECTS) $(RPC_TESTS:%=$(BUILD)/tests/unit/test_%.o): CPPFLAGS += -I$(BUILD)/tests/unit -Itests/lib
$(BUILD)/tests/lib/echo_ends.o $(RPC_TESTS:%=$(BUILD)/tests/unit/test_%.o): | $(BUILD)/tests/unit/echo.h
$(RPC_TESTS:%=$(BUILD)/tests/unit/test_%): $(RPC_TEST_OBJECTS)
# Whose turn it is, without what is done in it.
$(BUILD)/tests/unit/test_rpc_turn.o: CPPFLAGS += -Itests/lib
$(BUILD)/tests/unit/test_rpc_turn: $(BUILD)/tests/lib/test_pki.o
$(BUILD)/tests/unit/test_rpc_turn: LDFLAGS += -Wl,--wrap=traffic_run,--wrap=traffic_flush

# ---- fuzzing: make fuzz, or make CC=clang SANITIZE=… of one target ----------------------------
# Targets: tests/fuzz/fuzz_NAME.c, corpus in tests/fuzz/corpus/NAME. Built by clang into build/fuzz.
FUZZERS := record probe args km controller conf conf_quantumd conf_controllerd store store_file journal
FUZZ_SECONDS ?= 60

$(BUILD)/bin/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS)
$(BUILD)/tests/fuzz/fuzz_record.o: CPPFLAGS += -I$(BUILD)/tests/unit
$(BUILD)/tests/fuzz/fuzz_record.o: | $(BUILD)/tests/unit/echo.h
$(BUILD)/bin/fuzz_record: $(filter-out %_clnt.o,$(ECHO_OBJECTS))
$(BUILD)/tests/fuzz/fuzz_probe.o: CPPFLAGS += -Itests/lib
$(BUILD)/bin/fuzz_probe: $(BUILD)/tests/lib/test_pki.o
$(BUILD)/idl/fuzz_types.h: $(wildcard idl/*.x)
	@mkdir -p $(@D)
	$(Q)sed -n 's/^[ \t]*\([a-z0-9_]*\) [A-Z0-9_]*(\([a-z0-9_]*\)) = [0-9]*;.*/\1\n\2/p' $^ | sort -u | sed 's/.*/X(&)/' > $@
$(BUILD)/tests/fuzz/fuzz_args.o: $(BUILD)/idl/fuzz_types.h
$(BUILD)/tests/fuzz/fuzz_km.o $(BUILD)/tests/fuzz/fuzz_conf.o: CPPFLAGS += -Iserver/km
# The other ends' dispatchers, which the linker drops elsewhere, stay where coverage is counted.
$(BUILD)/bin/fuzz_km: LDFLAGS += -Wl,--unresolved-symbols=ignore-in-object-files
$(BUILD)/bin/fuzz_km: $(patsubst %.c,$(BUILD)/%.o,$(filter-out %/kmd.c %/km_conf.c,$(qkdn-kmd)))
$(BUILD)/bin/fuzz_conf: $(BUILD)/server/km/km_conf.o
$(BUILD)/tests/fuzz/fuzz_conf_%.o: tests/fuzz/fuzz_settings.c
	@mkdir -p $(@D)
	$(Q)echo "  CC $< ($*)"; $(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(WARN) -c -o $@ $<
$(BUILD)/tests/fuzz/fuzz_conf_quantumd.o: CPPFLAGS += -Iserver/quantum
$(BUILD)/bin/fuzz_conf_quantumd: $(BUILD)/server/quantum/settings.o
$(BUILD)/tests/fuzz/fuzz_conf_controllerd.o: CPPFLAGS += -Iserver/controller
$(BUILD)/bin/fuzz_conf_controllerd: $(BUILD)/server/controller/settings.o
$(patsubst %,$(BUILD)/bin/fuzz_%,conf conf_quantumd conf_controllerd): $(BUILD)/tests/fuzz/loading.o
$(BUILD)/bin/fuzz_store: LDFLAGS += -Wl,--wrap=seal_open,--wrap=seal_close
$(BUILD)/tests/fuzz/fuzz_controller.o: CPPFLAGS += -Iserver/controller
$(BUILD)/bin/fuzz_km $(BUILD)/bin/fuzz_controller: $(BUILD)/tests/fuzz/peers.o
$(BUILD)/bin/fuzz_controller: LDFLAGS += -Wl,--unresolved-symbols=ignore-in-object-files
$(BUILD)/bin/fuzz_controller: $(patsubst %,$(BUILD)/server/controller/%.o,$(CONTROLLER_CORE) $(CONTROLLER_WIRE))

fuzz:
	$(Q)$(MAKE) CC=clang SANITIZE=fuzzer-no-link,address,undefined BUILD=build/fuzz \
		$(FUZZERS:%=build/fuzz/bin/fuzz_%)
	$(Q)for f in $(FUZZERS); do mkdir -p build/fuzz/found/$$f && build/fuzz/bin/fuzz_$$f \
		-max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=5 -artifact_prefix=build/fuzz/$$f- \
		build/fuzz/found/$$f tests/fuzz/corpus/$$f || exit 1; done

# ---- benchmarks -------------------------------------------------------------------------------
$(BUILD)/bench/bench_keystore: $(BUILD)/tests/bench/bench_keystore.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
# gRPC is the benchmark's reference alone: apt-get install libgrpc++-dev.
$(BUILD)/bench/grpc_null: tests/bench/grpc_null.cc
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CXX) -std=c++17 -O2 -Wall -Wextra -o $@ $< $$($(PKG_CONFIG) --cflags --libs grpc++)
$(BUILD)/bench/bench_route: $(BUILD)/tests/bench/bench_route.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS) $(TEST_LIBS)
$(BUILD)/tests/bench/bench_rpc.o: CPPFLAGS += -Itests/lib
BENCHES := bench_rpc bench_route
$(BUILD)/bench/bench_supply: $(BUILD)/tests/bench/bench_supply.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/bench/bench_demand: $(BUILD)/tests/bench/bench_demand.o $(LIBQKDN_STATIC) $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

bench: all $(BENCHES:%=$(BUILD)/bench/%) $(BUILD)/bench/bench_supply $(BUILD)/bench/bench_demand $(BUILD)/bench/bench_keystore \
		$(BUILD)/tests/unit/test_controller
	$(Q)if $(PKG_CONFIG) --exists grpc++; then $(MAKE) $(BUILD)/bench/grpc_null; fi
	$(Q)BUILD=$(BUILD) tests/bench/run $(BUILD)/bench.json $(BENCHES:%=$(BUILD)/bench/%) tests/bench/bench_daemons \
		tests/bench/bench_relay tests/bench/bench_settled
$(BUILD)/bench/bench_rpc: $(BUILD)/tests/bench/bench_rpc.o $(BUILD)/tests/lib/test_pki.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

# ---- simulation: real cores of key managers in one process under a virtual clock ---------------------
# The store's works are delayed and dropped like messages: ks_submit is the simulation's. So is the log, which is read.
SIM := applications check control copy modules net node schedule sim stated store
# The longest first: they run side by side.
SIM_TESTS := $(addprefix $(BUILD)/tests/sim/test_,relay_scenarios message_scenarios schedules share_scenarios status_scenarios \
	ahead_scenarios supply_scenarios pad_scenarios store_scenarios)
SIM_OBJECTS := $(SIM:%=$(BUILD)/tests/sim/%.o) $(KM:%=$(BUILD)/server/km/%.o) \
	$(CONTROLLER_CORE:%=$(BUILD)/server/controller/%.o)
$(BUILD)/tests/sim/control.o: CPPFLAGS += -Iserver/controller
SIM_WRAP := -Wl,--wrap=ks_submit,--wrap=ks_submit_early,--wrap=kv_memory_new,--wrap=keyring_new,--wrap=log_info,--wrap=log_warning
$(SIM:%=$(BUILD)/tests/sim/%.o) $(BUILD)/tests/sim/main.o $(SIM_TESTS:%=%.o): CPPFLAGS += -Iserver/km -Itests/sim
$(BUILD)/tests/sim/sim: $(BUILD)/tests/sim/main.o $(SIM_OBJECTS) $(BUILD)/libinternal.a
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) $(SIM_WRAP) -o $@ $^ $(LIBS)

$(SIM_TESTS): %: %.o $(SIM_OBJECTS) $(BUILD)/libinternal.a
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) $(SIM_WRAP) -o $@ $^ -lcmocka $(LIBS)

# Programs that the integration tests need.
TEST_PROGRAMS := fake_ksad
TEST_PROGRAMS += flood key_load polite store_check
$(BUILD)/tests/bin/flood $(BUILD)/tests/bin/store_check: $(BUILD)/tests/bin/%: $(BUILD)/tests/integration/%.o $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/bin/key_load $(BUILD)/tests/bin/polite: $(BUILD)/tests/bin/%: $(BUILD)/tests/integration/%.o $(LIBQKDN_STATIC)
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS_client)
TEST_PROGRAMS += supply leftover demanding
$(addprefix $(BUILD)/tests/bin/,supply leftover demanding): $(BUILD)/tests/bin/%: $(BUILD)/tests/lib/%.o $(LIBQKDN_SHARED)
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $< -L$(BUILD)/lib -lqkdn -Wl,-rpath,'$$ORIGIN/../../lib' -lpthread
TEST_PROGRAMS += dumps_core.so
$(BUILD)/tests/bin/dumps_core.so: $(BUILD)/tests/lib/dumps_core.o
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) -shared $(LDFLAGS) -o $@ $<
$(BUILD)/tests/lib/fake_ksad.o: CPPFLAGS += -Itests/lib
$(BUILD)/tests/bin/fake_ksad: $(addprefix $(BUILD)/tests/lib/,fake_ksad.o fake_ksa.o test_pki.o) $(BUILD)/libinternal.a
	@mkdir -p $(@D)
	$(Q)echo "  LD $@"; $(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

export TSAN_OPTIONS ?= suppressions=$(CURDIR)/tests/tsan.supp

check-unit: $(UNITS:%=$(BUILD)/tests/unit/test_%)
	$(Q)for t in $(UNITS); do $(BUILD)/tests/unit/test_$$t || exit 1; done

check-sim: $(SIM_TESTS) $(BUILD)/bin/qkdn-keyreq
	$(Q)QKDN_TEST_TIMEOUT=1800 tests/run --build $(BUILD) $(SIM_TESTS)

# The units, and the integration tests that reach most of the programs, run under the address and undefined-behaviour
# sanitizers, which find leaks, too: what they report fails the test during which they did. In the ordinary build runs
# what a sanitizer has no place in:
#   confine, keystore_memory   a filter of system calls that it needs more than; a search for keys, which what it
#     memory, keyreq (part)    keeps of freed memory would spoil; what applications link to
#   install, units, privilege  what is installed, the limits of its units, and what is left of privilege
#   crash, hostile (part)      as many kills as a minute allows; rates
# and the rest, networks of more nodes and the simulation, whose programs are the same.
PLAIN_UNITS := confine keystore_memory
SANITIZED_UNITS := $(filter-out $(PLAIN_UNITS),$(UNITS))
SANITIZED := configuration controllerd device first_key hostile keyreq lab pki privilege procedures programs quantum_layer \
	revocation supply
BOTH := hostile keyreq privilege
INTEGRATION := $(patsubst tests/integration/test_%.py,%,$(sort $(wildcard tests/integration/test_*.py)))
PLAIN := $(BOTH) $(filter-out $(SANITIZED),$(INTEGRATION))

# A second build takes all cores, unless make was told of more jobs than one.
JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))

# Everything that tests/run needs to run any of them.
tests: all $(UNITS:%=$(BUILD)/tests/unit/test_%) $(TEST_PROGRAMS:%=$(BUILD)/tests/bin/%) $(SIM_TESTS)

sanitized: $(SANITIZED_UNITS:%=$(BUILD)/tests/unit/test_%) $(TEST_PROGRAMS:%=$(BUILD)/tests/bin/%) all

check: all $(PLAIN_UNITS:%=$(BUILD)/tests/unit/test_%) $(TEST_PROGRAMS:%=$(BUILD)/tests/bin/%) $(SIM_TESTS)
	$(Q)$(MAKE) $(JOBS) SANITIZE=address,undefined BUILD=$(BUILD)/asan sanitized
	$(Q)QKDN_ROUNDS=30 tests/run --build $(BUILD)/asan $(SANITIZED_UNITS:%=$(BUILD)/asan/tests/unit/test_%) \
		$(SANITIZED:%=tests/integration/test_%.py) \
		--build $(BUILD) $(PLAIN_UNITS:%=$(BUILD)/tests/unit/test_%) $(SIM_TESTS) $(sort $(wildcard tests/checks/*)) \
		$(PLAIN:%=tests/integration/test_%.py)

# What ThreadSanitizer and valgrind's memcheck find, and what a program lost when it ends, fails these, whichever
# process it is in. The store's writer and libqkdn's threads are what races could be between; a simulation has nothing
# to find. Valgrind makes programs some 30 times slower and has a tenth of the rounds. It has no place in
#   confine           a filter of system calls, which skips itself: valgrind asks for others
#   keystore_memory   a search of the whole memory, valgrind's and what was freed, too
THREAD_UNITS := base client rpc rpc_refusals keystore keystore_crash
check-thread:
	@echo "check-thread: about 10 minutes on two cores, 3 of them to build"
	$(Q)$(MAKE) $(JOBS) SANITIZE=thread BUILD=$(BUILD)/tsan all $(THREAD_UNITS:%=$(BUILD)/tsan/tests/unit/test_%) \
		$(TEST_PROGRAMS:%=$(BUILD)/tsan/tests/bin/%)
	$(Q)QKDN_TEST_TIMEOUT=1800 tests/watched tests/run --build $(BUILD)/tsan \
		$(THREAD_UNITS:%=$(BUILD)/tsan/tests/unit/test_%) $(patsubst %,tests/integration/test_%.py,first_key supply crash)

VALGRIND_UNITS := $(filter-out confine keystore_memory,$(UNITS))
check-valgrind:
	@echo "check-valgrind: about 25 minutes on two cores"
	$(Q)$(MAKE) all $(UNITS:%=$(BUILD)/tests/unit/test_%) $(TEST_PROGRAMS:%=$(BUILD)/tests/bin/%)
	$(Q)tests/valgrind $(BUILD) $(BUILD)/valgrind
	$(Q)QKDN_ROUNDS=10 QKDN_TEST_TIMEOUT=1800 tests/watched tests/run --build $(BUILD)/valgrind \
		$(VALGRIND_UNITS:%=$(BUILD)/valgrind/tests/unit/test_%) $(patsubst %,tests/integration/test_%.py,first_key keyreq procedures)

# ---- installing -------------------------------------------------------------------------------
bindir   ?= $(prefix)/bin
sbindir  ?= $(prefix)/sbin
mandir   ?= $(prefix)/share/man
datadir  ?= $(prefix)/share
unitdir  ?= $(prefix)/lib/systemd/system
completiondir ?= $(datadir)/bash-completion/completions
USER_PROGRAMS := qkdn-keyreq
COMMAND_LINES := qkdn-keyreq qkdnctl qkdn-lab qkdn-pki
INSTALL := install
UNITS_SYSTEMD := $(patsubst packaging/%.in,$(BUILD)/packaging/%,$(wildcard packaging/*.service.in))

# A unit is its own text with the hardening that all share.
$(BUILD)/packaging/%.service: packaging/%.service.in packaging/hardening.conf FORCE
	@mkdir -p $(@D)
	$(Q)sed -e '/^@hardening@$$/{r packaging/hardening.conf' -e 'd}' -e 's|@sbindir@|$(sbindir)|' $< > $@

install: all $(UNITS_SYSTEMD)
	$(Q)$(INSTALL) -d $(addprefix $(DESTDIR),$(bindir) $(sbindir) $(libdir)/pkgconfig $(includedir) $(unitdir) \
		$(completiondir) $(datadir)/qkdn/idl $(datadir)/doc/qkdn/examples $(prefix)/lib/sysusers.d $(prefix)/lib/tmpfiles.d)
	$(Q)$(INSTALL) $(addprefix $(BUILD)/bin/,$(USER_PROGRAMS)) $(DESTDIR)$(bindir)
	$(Q)$(INSTALL) $(addprefix $(BUILD)/bin/,$(filter-out $(USER_PROGRAMS),$(PROGRAMS))) $(DESTDIR)$(sbindir)
	$(Q)$(INSTALL) $(LIBQKDN_SHARED) $(DESTDIR)$(libdir)
	$(Q)ln -sf $(notdir $(LIBQKDN_SHARED)) $(DESTDIR)$(libdir)/$(LIBQKDN_SONAME)
	$(Q)ln -sf $(LIBQKDN_SONAME) $(DESTDIR)$(libdir)/libqkdn.so
	$(Q)$(INSTALL) -m 644 $(LIBQKDN_STATIC) $(DESTDIR)$(libdir)
	$(Q)$(INSTALL) -m 644 $(LIBQKDN_PC) $(DESTDIR)$(libdir)/pkgconfig
	$(Q)$(INSTALL) -m 644 client/qkdn.h $(DESTDIR)$(includedir)
	$(Q)$(INSTALL) -m 644 $(wildcard idl/*.x) $(DESTDIR)$(datadir)/qkdn/idl
	$(Q)$(INSTALL) -m 644 idl/qkdn.rpc $(DESTDIR)$(datadir)/qkdn
	$(Q)$(INSTALL) -m 644 $(wildcard examples/*.conf) examples/device.c $(DESTDIR)$(datadir)/doc/qkdn/examples
	$(Q)for p in $(COMMAND_LINES); do $(INSTALL) -m 644 completions/qkdn.bash \
		$(DESTDIR)$(completiondir)/$$p || exit 1; done
	$(Q)for s in 1 3 5 7 8; do $(INSTALL) -d $(DESTDIR)$(mandir)/man$$s && \
		$(INSTALL) -m 644 man/*.$$s $(DESTDIR)$(mandir)/man$$s || exit 1; done
	$(Q)$(INSTALL) -m 644 $(UNITS_SYSTEMD) $(DESTDIR)$(unitdir)
	$(Q)$(INSTALL) -m 644 packaging/sysusers.conf $(DESTDIR)$(prefix)/lib/sysusers.d/qkdn.conf
	$(Q)$(INSTALL) -m 644 packaging/tmpfiles.conf $(DESTDIR)$(prefix)/lib/tmpfiles.d/qkdn.conf

# Random schedules of faults in simulation, then hundreds of kills: SOAK_SECONDS of each, reproducible by their seeds.
SOAK_SECONDS ?= 1200
soak: all $(TEST_PROGRAMS:%=$(BUILD)/tests/bin/%) $(BUILD)/tests/sim/sim
	$(Q)$(BUILD)/tests/sim/sim --seconds $(SOAK_SECONDS)
	$(Q)BUILD=$(BUILD) QKDN_CRASH_SECONDS=$(SOAK_SECONDS) QKDN_CRASH_SEED=0 python3 tests/integration/test_crash.py Crash.test_kill

demo: all
	$(Q)tools/demo.sh $(BUILD)/bin

# Two compilers without a warning, and what cppcheck finds beyond them: it does not see through uthash's loops,
# nor that a caller may wait for what it was lent.
lint:
	$(Q)$(MAKE) CC=clang BUILD=$(BUILD)/clang CFLAGS=-Werror all
	$(Q)$(MAKE) BUILD=$(BUILD)/lint CFLAGS=-Werror all
	$(Q)cppcheck --quiet --error-exitcode=1 --inline-suppr --enable=warning,portability --suppress=missingIncludeSystem \
		--suppress=unknownMacro --suppress=uninitvar --suppress=autoVariables --suppress=ctuuninitvar \
		--suppress=ctunullpointer -D_GNU_SOURCE -D__$(shell uname -m)__ $(filter -I%,$(CPPFLAGS)) lib client server tools

# For checks and scripts.
print-programs:
	@echo $(PROGRAMS)

# The largest example: 145 nodes, 162 daemons.
check-large: all
	$(Q)QKDN_LARGE=1 tests/run --build $(BUILD) tests/integration/test_examples.py

clean:
	rm -rf $(BUILD)

.PHONY: FORCE all bench programs install tests sanitized check check-unit check-sim check-thread check-valgrind fuzz lint soak demo print-programs clean
.DELETE_ON_ERROR:
-include $(OBJECTS_lib:.o=.d) $(OBJECTS_client:.o=.d) $(OBJECTS_programs:.o=.d) $(wildcard $(BUILD)/tests/*/*.d)

.SECONDARY:
