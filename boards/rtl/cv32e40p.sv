// CV32E40P without extensions: four stages, no caches, a multiplier of one cycle (five for mulh).
// Memory answers in the next cycle, always. `retired` tells of an instruction that leaves the decoder in this cycle, at
// `pc`, and then completes: what minstret counts. Programs never sleep, so the clock is never gated.
module cv32e40p_clock_gate (
    input logic clk_i, input logic en_i, input logic scan_cg_en_i, output logic clk_o
);
  assign clk_o = clk_i;
endmodule

module top (
    input logic clk, input logic rst_n, input logic [31:0] boot,
    output logic fetch, output logic [31:0] fetch_address, input logic fetched, input logic [31:0] instruction,
    output logic access, output logic write, output logic [3:0] bytes, output logic [31:0] address,
    output logic [31:0] stored, input logic answered, input logic [31:0] loaded,
    output logic retired, output logic [31:0] pc
);
  cv32e40p_core core (
      .clk_i(clk), .rst_ni(rst_n), .pulp_clock_en_i(1'b1), .scan_cg_en_i(1'b0), .boot_addr_i(boot),
      .mtvec_addr_i({boot[31:8], 8'h00}), .dm_halt_addr_i('0), .hart_id_i('0), .dm_exception_addr_i('0),
      .instr_req_o(fetch), .instr_gnt_i(1'b1), .instr_rvalid_i(fetched), .instr_addr_o(fetch_address),
      .instr_rdata_i(instruction),
      .data_req_o(access), .data_gnt_i(1'b1), .data_rvalid_i(answered), .data_we_o(write), .data_be_o(bytes),
      .data_addr_o(address), .data_wdata_o(stored), .data_rdata_i(loaded),
      .apu_gnt_i(1'b0), .apu_rvalid_i(1'b0), .apu_result_i('0), .apu_flags_i('0),
      .irq_i('0), .debug_req_i(1'b0), .fetch_enable_i(1'b1)
  );
  assign retired = core.id_stage_i.minstret;
  assign pc = core.pc_id;
endmodule
