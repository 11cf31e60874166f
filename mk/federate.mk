# A federation as file targets: `make federate` goes on where it stopped, `make -j2 federate` trains clients in
# parallel. Artifacts are immutable, so what exists is done: prerequisites are order-only, and no clock, touch or
# copy makes anything run twice.
#
#   FEDERATION   the federation.toml with settings and, under [clients], where each client's data lies
#   NAME         the run's folder in RUNS
#   ROUNDS       how many rounds
#   CLIENTS      who trains, in every round
#   DATA         a folder with CLIENT.jsonl for each client, instead of [clients]
#   KEEP_STATE   1: clients keep what rounding takes from their updates, and add it to the next ones. From the first
#                round on; for federations that round updates: PACK_OPTIONS="--update-bits 4", or [update]; and their
#                control variates, where [train] asks for those
#   LEDGERS      a folder with CLIENT.budget for each client who trains with privacy for examples, which [privacy] or
#                CLIENT_TRAIN_OPTIONS="--dp-epsilon 8 --dp-rounds 3" ask for; begun in the first round
#   MASKED       1: each client gets a package of its own, as method fedqsn, [mask] client or
#                QUANTIZE_OPTIONS="--mask-client 0.5" need
#   SIGN         a private key, clinic.pem, that signs packages; clients take no others. Its passphrase: FEDLPP_PASSPHRASE
#   …_OPTIONS    more options for one command, such as QUANTIZE_OPTIONS="--bits 4"
#
# What a run releases is noted in its own folder and not in the user's: several runs on one machine may start from the
# same first master and round it differently.

FEDLPP ?= fedlpp
RUNS ?= artifacts/runs
NAME ?= $(notdir $(patsubst %/,%,$(dir $(abspath $(FEDERATION)))))
ROUNDS ?= 3

RUN = $(RUNS)/$(NAME)
round_names := $(shell seq -f round-%04.0f 0 $(ROUNDS))
settings = $(if $(FEDERATION),-f $(FEDERATION))
sign = $(if $(SIGN),--sign $(SIGN))
signer = $(if $(SIGN),--signer $(SIGN:.pem=).pub)
data = $(if $(DATA),--data $(DATA)/$*.jsonl)

.PHONY: federate
# Every rule here is explicit: looking for implicit ones through a chain of rounds takes make exponential time.
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
ifndef CLIENTS
$(error CLIENTS is missing: make federate CLIENTS="a b c d" FEDERATION=federation.toml)
endif
federate: $(RUN)/$(lastword $(round_names))/master.safetensors

$(RUN)/round-0000/master.safetensors:
	$(FEDLPP) init $(settings) $(INIT_OPTIONS) --out $@ --quiet

# $(1): this round, $(2): the one before, if any. Where an update is, its state is, so no rule needs to wait for states.
# A killed client-train can leave a state alone: --force replaces it.
states = $(if $(KEEP_STATE),$(if $(2),--state $(RUN)/$(2)/states/$*.safetensors) --state-out $(RUN)/$(1)/states/$*.safetensors --force)

# $(1): the round before, if any.
ledger = $(if $(LEDGERS),--ledger $(LEDGERS)/$*.budget$(if $(1),, --new-ledger))

# What client % gets, or all of them, and all that went out in round $(1).
package = $(if $(MASKED),packages/%,package)
packages = $(if $(MASKED),$(CLIENTS:%=--package $(RUN)/$(1)/packages/%),--package $(RUN)/$(1)/package)
quantized = --base-out $(RUN)/base $(QUANTIZE_OPTIONS)
packed = --base-artifact $(RUN)/base --ledger $(RUN)/releases.jsonl $(sign) $(PACK_OPTIONS)

# $(1): this round.
ifdef MASKED
define send_rules
$$(CLIENTS:%=$$(RUN)/$(1)/proxies/%.safetensors): $$(RUN)/$(1)/proxies/%.safetensors: | $$(RUN)/$(1)/master.safetensors
	$$(FEDLPP) quantize $$(RUN)/$(1)/master.safetensors $$(settings) $$(quantized) --client $$* --out $$@ --quiet

$$(CLIENTS:%=$$(RUN)/$(1)/packages/%/manifest.json): $$(RUN)/$(1)/packages/%/manifest.json: | $$(RUN)/$(1)/proxies/%.safetensors
	$$(FEDLPP) pack $$(RUN)/$(1)/proxies/$$*.safetensors $$(settings) $$(packed) --out $$(@D) --quiet
endef
else
define send_rules
$$(RUN)/$(1)/proxy.safetensors: | $$(RUN)/$(1)/master.safetensors
	$$(FEDLPP) quantize $$(RUN)/$(1)/master.safetensors $$(settings) $$(quantized) --out $$@ --quiet

$$(RUN)/$(1)/package/manifest.json: | $$(RUN)/$(1)/proxy.safetensors
	$$(FEDLPP) pack $$(RUN)/$(1)/proxy.safetensors $$(settings) $$(packed) --out $$(@D) --quiet
endef
endif

# $(1): this round, $(2): the next one, $(3): the one before. A private base is quantized in the first round and lies in $(RUN)/base.
define round_rules
$(call send_rules,$(1))

$$(CLIENTS:%=$$(RUN)/$(1)/updates/%.safetensors): $$(RUN)/$(1)/updates/%.safetensors: | $$(RUN)/$(1)/$(package)/manifest.json
	$$(FEDLPP) client-train $$(RUN)/$(1)/$(subst %,$$*,$(package)) --client $$* $$(data) $$(settings) $$(call states,$(1),$(3)) $$(call ledger,$(3)) $$(signer) $$(CLIENT_TRAIN_OPTIONS) --out $$@ --quiet

$$(RUN)/$(2)/master.safetensors: | $$(CLIENTS:%=$$(RUN)/$(1)/updates/%.safetensors)
	$$(FEDLPP) aggregate $$(RUN)/$(1)/master.safetensors $$| $(packages) $$(settings) $$(AGGREGATE_OPTIONS) --out $$@ --quiet
endef

$(foreach number,$(shell seq 1 $(ROUNDS)),$(eval $(call round_rules,$(word $(number),$(round_names)),$(word $(number),$(wordlist 2,$(words $(round_names)),$(round_names))),$(lastword $(wordlist 2,$(number),- $(round_names))))))
