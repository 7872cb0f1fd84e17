// Ibex as its authors' configuration "small": two stages, no caches, RV32M by the fast multiplier (three cycles for mul).
// Memory answers in the next cycle, always. `retired` tells of an instruction that completes in this cycle, at `pc`.
module top (
    input logic clk, input logic rst_n, input logic [31:0] boot,
    output logic fetch, output logic [31:0] fetch_address, input logic fetched, input logic [31:0] instruction,
    output logic access, output logic write, output logic [3:0] bytes, output logic [31:0] address,
    output logic [31:0] stored, input logic answered, input logic [31:0] loaded,
    output logic retired, output logic [31:0] pc
);
  logic [4:0] read_a, read_b, written;
  logic [31:0] value_a, value_b, value;
  logic is_written;

  ibex_core #(
      .RV32M(ibex_pkg::RV32MFast)
  ) core (
      .clk_i(clk), .rst_ni(rst_n), .hart_id_i('0), .boot_addr_i(boot), .fetch_enable_i(ibex_pkg::IbexMuBiOn),
      .instr_req_o(fetch), .instr_gnt_i(1'b1), .instr_rvalid_i(fetched), .instr_addr_o(fetch_address),
      .instr_rdata_i(instruction), .instr_err_i(1'b0),
      .data_req_o(access), .data_gnt_i(1'b1), .data_rvalid_i(answered), .data_we_o(write), .data_be_o(bytes),
      .data_addr_o(address), .data_wdata_o(stored), .data_rdata_i(loaded), .data_err_i(1'b0),
      .rf_raddr_a_o(read_a), .rf_raddr_b_o(read_b), .rf_waddr_wb_o(written), .rf_we_wb_o(is_written),
      .rf_wdata_wb_ecc_o(value), .rf_rdata_a_ecc_i(value_a), .rf_rdata_b_ecc_i(value_b),
      .ic_tag_rdata_i('{default: '0}), .ic_data_rdata_i('{default: '0}), .ic_scr_key_valid_i(1'b0),
      .irq_software_i(1'b0), .irq_timer_i(1'b0), .irq_external_i(1'b0), .irq_fast_i('0), .irq_nm_i(1'b0),
      .debug_req_i(1'b0)
  );
  ibex_register_file_ff registers (
      .clk_i(clk), .rst_ni(rst_n), .test_en_i(1'b0), .dummy_instr_id_i(1'b0), .dummy_instr_wb_i(1'b0),
      .raddr_a_i(read_a), .rdata_a_o(value_a), .raddr_b_i(read_b), .rdata_b_o(value_b),
      .waddr_a_i(written), .wdata_a_i(value), .we_a_i(is_written)
  );
  assign retired = core.perf_instr_ret_wb;
  assign pc = core.pc_id;
endmodule
